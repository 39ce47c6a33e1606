"""A terminal of 100 columns, and a clock that the test sets."""

import pytest
from support.screen import Screen

from trainer.tracking import terminal as module


@pytest.fixture
def terminal_variables(monkeypatch):
    """A terminal that can draw, whatever the tests themselves run in."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("CI", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def screen():
    screen = Screen()
    yield screen
    screen.close()


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set: clock[0], in seconds."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now
