"""Formats of files and of downloads, read as arrays."""
