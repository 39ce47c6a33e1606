"""One training step on many devices, and evaluation."""
