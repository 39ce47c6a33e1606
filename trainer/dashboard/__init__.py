"""Curves and pictures for TensorBoard, and the diagnosis of a step that was not finite."""
