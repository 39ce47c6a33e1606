"""What the commands print on standard output: tables for people, JSON for programs."""

import os
import sys
from collections.abc import Collection, Iterator, Sequence

from trainer.job.errors import SaveError

SHOWN = 8  # values in a message


def show(text: str) -> None:
    """Print a text and flush; a reader that stops reading, such as `| head`, is not an error.

    Characters that the encoding of standard output lacks become question marks.

    Raises:
        SaveError: it cannot be written, to a full disk for example.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), flush=True)
    except OSError as error:
        # Python flushes again when it exits: to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            message = f"standard output cannot be written ({error.strerror})"
            raise SaveError(message, "free some space, or redirect it elsewhere") from None


def claim_stdout() -> None:
    """Send what libraries print to standard error from now on: gloo prints to standard output."""
    sys.stdout.flush()
    own = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.stdout = os.fdopen(own, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def table(rows: Sequence[Sequence[str]], left: Collection[int]) -> Iterator[str]:
    """Yield the lines of a table, without rich: columns in `left` are aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def listed(values: Sequence[object]) -> str:
    """Return the first values, and how many more there are, for a message."""
    more = len(values) - SHOWN
    return ", ".join(map(str, values[:SHOWN])) + (f" and {more:,} more" if more > 0 else "")


def printable(text: str) -> str:
    """Return a text without control sequences, which a terminal would execute."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
