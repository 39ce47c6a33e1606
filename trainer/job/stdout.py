"""What the commands print on standard output: tables for people, JSON for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Sequence

from trainer.job.errors import SaveError


def show(text: str) -> None:
    """Print a text and flush; somebody who reads no further, as `| head` does, is no error.

    A letter that the encoding of standard output lacks becomes a question mark.

    Raises:
        SaveError: it cannot be written, to a full disk for example.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), flush=True)
    except OSError as error:  # what Python flushes at its exit goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            told = f"standard output cannot be written ({error.strerror})"
            raise SaveError(told, "make room, or send it elsewhere") from None


def claim_stdout() -> None:
    """Send what libraries print to standard error from now on: gloo greets on standard output."""
    sys.stdout.flush()
    own = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.stdout = os.fdopen(own, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def table(rows: Sequence[Sequence[str]], left: Collection[int]) -> Iterator[str]:
    """Yield the lines of a table; columns are aligned to the right but for those in `left`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def printable(text: str) -> str:
    """Return a text that no terminal takes for a command to it."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
