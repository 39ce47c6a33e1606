"""The typed options, and composing them with Hydra."""
