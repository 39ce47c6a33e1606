"""The command `new`: a small project to start from."""
