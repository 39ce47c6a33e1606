"""The Python API: what the command line does, from a script or a notebook."""
