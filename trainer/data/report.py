"""How reading data, which may take minutes, says how far it is, and how it is stopped."""

from collections.abc import Callable
from typing import NamedTuple


class Report(NamedTuple):
    """Functions of the caller, which whatever reads data calls."""

    # What is done to what, bytes so far, bytes in all: None if unknown, 0 if it has failed.
    progress: Callable[[str, int, int | None], None]
    poll: Callable[[], None]  # called all the time; may raise, to end the work
    warn: Callable[[str], None]  # given what the user should know, in one line or several
