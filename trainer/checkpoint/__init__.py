"""Verified checkpoints: write, check, restore, load a model."""
