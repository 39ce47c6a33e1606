"""Bytes on disk -> arrays -> batch i of a run."""
