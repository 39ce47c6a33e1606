"""Shorter waits, for processes that meet in a test."""

import pytest

from trainer.distributed import rendezvous


@pytest.fixture
def shorter_waits(monkeypatch):
    """Let processes that meet wait for parts of a second."""
    monkeypatch.setattr(rendezvous, "TICK", 0.02)
    monkeypatch.setattr(rendezvous, "ANSWER", 0.5)
    monkeypatch.setattr(rendezvous, "GRACE", 2.0)
