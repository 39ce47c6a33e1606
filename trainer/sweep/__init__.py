"""Sweeps: many trials from one command line, resumed and ranked."""
