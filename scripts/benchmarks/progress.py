"""What a person sees while it is measured: a bar on a terminal, a line a measurement elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Progress:
    """Says what is being measured; quiet about what is done, on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._section = ""

    def section(self, name: str, number: int, count: int) -> None:
        """Begin a section."""
        self._section = f"{name} ({number} of {count})"

    def say(self, text: str) -> None:
        """Say what stays on the terminal."""
        self._console.print(text, markup=False, highlight=False)

    @contextmanager
    def job(self, name: str, number: int, rounds: int) -> Iterator[None]:
        """Say that a measurement is under way while the block lasts."""
        told = f"{self._section}, round {number} of {rounds}: {name}"
        began = time.monotonic()
        if self._console.is_terminal:
            with self._console.status(told, spinner="line"):
                yield
        else:
            yield
            self.say(f"{told}: {time.monotonic() - began:.1f} s")
