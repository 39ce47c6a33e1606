"""Exit immediately, where an orderly exit would wait for something that may never come."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

MESSAGE_SECONDS = 5.0  # a file system that hangs does not keep the process from exiting


def hard_exit(code: int, write_message: Callable[[], None] = lambda: None) -> NoReturn:
    """Exit immediately with `code`; try for 5 s to write a final message."""

    def write() -> None:
        write_message()
        sys.stdout.flush()
        sys.stderr.flush()

    try:
        thread = threading.Thread(target=write, name="final message", daemon=True)
        thread.start()
        thread.join(MESSAGE_SECONDS)
    finally:
        os._exit(code)


def hard_exit_later(seconds: float, code: int) -> None:
    """Exit with `code` in some seconds, unless the process has ended by itself before."""
    _start_timer(seconds, lambda: hard_exit(code))


@contextmanager
def time_limit(seconds: float, on_timeout: Callable[[], object]) -> Iterator[None]:
    """Call `on_timeout` in another thread if the block takes longer: nothing can interrupt it."""
    timer = _start_timer(seconds, on_timeout)
    try:
        yield
    finally:
        timer.cancel()


def _start_timer(seconds: float, action: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
    return timer
