"""Models: init(key, ...) makes weights, fwd(x, weights) takes one example."""
