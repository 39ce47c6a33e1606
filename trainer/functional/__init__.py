"""Pure functions in the style of mlax: a layer is a module with `init` and `fwd`, never a class."""
