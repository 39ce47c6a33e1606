"""Curves and pictures for TensorBoard."""
