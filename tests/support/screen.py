"""A terminal that keeps what is written to it, and a whole run as a terminal shows it."""

import os
import pty
import re
import threading

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"
MEANS = {"loss": 1.0, "accuracy": 0.5}
TESTED = {"loss": 0.0712, "accuracy": 0.9806}


class Screen:
    """A real pseudo-terminal; `stream` is the program's end, `text()` all that it wrote."""

    def __init__(self):
        self._master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self._parts = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        try:
            while part := os.read(self._master, 65536):
                self._parts.append(part)
        except OSError:  # the program's end is closed
            pass

    def text(self):
        self.stream.close()
        self._reader.join()
        return b"".join(self._parts).decode()

    def lines(self):
        """Return what was drawn, one drawing or line each, without the control sequences."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text())
        return [line.strip() for line in re.split(r"[\r\n]+", plain)]

    def close(self):
        self.text()
        os.close(self._master)


def play(terminal, clock, steps=400):
    """Tell a whole run of two epochs; each step takes 1/16 s."""
    terminal.download("downloading images.gz", 0, 9_900_000)
    terminal.download("downloading images.gz", 9_900_000, 9_900_000)
    terminal.note("resuming after step 0")
    terminal.start(steps, 0, steps // 2)
    for step in range(1, steps + 1):
        clock[0] += 1 / 16
        terminal.update(step, {"loss": 1 / step, "accuracy": 0.5}, 51234.0)
        if step % (steps // 2) == 0:
            terminal.evaluation(2 * step // steps, step, 0.0312, "validation", TESTED, 0.123)
    terminal.warn("the disk is full")
    terminal.close()
    terminal.summary([("status", "completed"), ("test accuracy", "98.06%")])
    terminal.close()
