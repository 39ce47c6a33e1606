"""Records what a newcomer sees in a terminal of so many columns; writes docs/first-minute.md.

    .venv/bin/python tests/support/first_minute.py

It clones the checkout, makes the environment there, trains, and stops a second training by Ctrl-C,
in 80 and in 120 columns. It takes minutes and the package index. With TRAINER_MNIST_DIR, MNIST is
taken from there, else downloaded.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "first-minute.md"
COLUMNS = (80, 120)
HEAD = """\
# The first minute

What a terminal of 80 and of 120 columns shows of a fresh checkout, on a machine with 2 CPU cores
that was busy with other work: `tests/support/first_minute.py` has recorded it. Each bar is shown as
it was drawn last.
"""


class Screen:
    """The lines of a terminal after some output; long ones are wrapped at its right edge."""

    def __init__(self, columns: int, output: str) -> None:
        self.columns, self.rows, self.row, self.column = columns, [[]], 0, 0
        self.wrapped: set[int] = set()  # rows that continue the one before
        for control, number, letter, text in re.findall(
            r"(\x1b\[[?0-9;]*?(\d*)([A-Za-z]))|([^\x1b]+)", output, re.DOTALL
        ):
            if not control:
                for character in text:
                    self._put(character)
            elif letter == "A":
                self.row = max(0, self.row - int(number or 1))
            elif letter == "K":
                kept = 0 if number == "2" else self.column
                self.rows[self.row][kept:] = []

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
            return
        if character == "\n" or self.column == self.columns:
            self.row, self.column = self.row + 1, 0
            self.rows.extend([[]] if self.row == len(self.rows) else [])
            if character == "\n":
                return
            self.wrapped.add(self.row)
        row = self.rows[self.row]
        row += " " * (self.column + 1 - len(row))
        row[self.column] = character
        self.column += 1

    def lines(self) -> list[str]:
        """Return the lines as they stand, without the empty ones at the end."""
        return "\n".join("".join(row).rstrip() for row in self.rows).rstrip("\n").split("\n")


def record(
    command: Sequence[str],
    columns: int,
    folder: Path,
    environ: Mapping[str, str],
    stop_after: str | None = None,
) -> tuple[int, str]:
    """Run a command in a terminal; return its code and all that it wrote.

    As soon as its output matches `stop_after`, Ctrl-C is typed, once.
    """
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", 50, columns, 0, 0))
        os.execvpe(command[0], command, {**environ, "TERM": "xterm-256color"})
    output = b""
    with suppress(OSError):  # the other end is closed
        while part := os.read(terminal, 65536):
            output += part
            if stop_after and re.search(stop_after, output.decode(errors="replace")):
                os.write(terminal, b"\x03")
                stop_after = None
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), output.decode()


def main() -> None:
    """Write the document."""
    sections = [HEAD]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "trainer"
        subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
        cache = Path(temporary) / "cache"
        if given := os.environ.get("TRAINER_MNIST_DIR"):
            shutil.copytree(given, cache / "mnist")
        kept = re.compile("PATH|LANG|PIP_.*|.*_proxy|.*_PROXY")
        environ = {name: text for name, text in os.environ.items() if kept.fullmatch(name)}
        environ |= {"HOME": temporary, "TRAINER_CACHE_DIR": str(cache), "JAX_PLATFORMS": "cpu"}
        for columns in COLUMNS:
            shutil.rmtree(folder / ".venv", ignore_errors=True)
            sections.append(f"## {columns} columns\n")
            for words, stop_after in (
                (["./scripts/train"], None),
                (["./scripts/train"], r"epoch 3/10"),
                (["./scripts/train", "batch_size=128"], None),
                (["./scripts/train", "--epochs", "5"], None),
            ):
                code, output = record(words, columns, folder, environ, stop_after)
                print(output, code, sep="\n", file=sys.stderr)
                lines = Screen(columns, output.replace(str(folder), "/srv/trainer")).lines()
                text = "\n".join(f"    {line}".rstrip() for line in lines)
                sections.append(f"    $ {' '.join(words)}\n{text}\n")
    DOCUMENT.write_text("\n".join(sections))


if __name__ == "__main__":
    main()
