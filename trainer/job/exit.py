"""Ending the process at once, where an orderly end would wait for what may never come."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

LAST_WORDS_SECONDS = 5.0  # a run directory that hangs does not keep the process


def hard_exit(code: int, last_words: Callable[[], None] = lambda: None) -> NoReturn:
    """End this process with a code, after some last words: said in time, or not at all."""

    def say() -> None:
        last_words()
        sys.stdout.flush()
        sys.stderr.flush()

    try:
        thread = threading.Thread(target=say, name="last words", daemon=True)
        thread.start()
        thread.join(LAST_WORDS_SECONDS)
    finally:
        os._exit(code)


def hard_exit_later(seconds: float, code: int) -> None:
    """End this process with a code if it has not ended by itself in some seconds."""
    timer = threading.Timer(seconds, hard_exit, [code])
    timer.daemon = True
    timer.start()
