"""metrics.jsonl: one JSON object a logged point, each point once however often a run restarts.

The keys are `step` (int), `split` ("train" or "eval"), `time` (unix seconds) and the metrics.
JSON has no NaN and no infinities: they stand as the strings "NaN", "Infinity", "-Infinity".
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.job.files import NONFINITE, to_json, write_text

_RESERVED = frozenset({"step", "split", "time"})


class MetricsLog:
    """The log of one run, open for appending.

    A point is one write() of one line, so that a killed process leaves at most one torn line, the
    last. A failed write leaves none: what got through of it is cut off again.
    """

    def __init__(self, path: Path, resume_step: int | None) -> None:
        """Open the log; None starts it anew, a step keeps the points up to and including it.

        The points kept are in their old order, the first of each (split, step).

        Raises:
            OSError: the file cannot be read or written.
        """
        self._path = path
        self.reached = 0  # the last step of the log as it was found
        self._kept: set[tuple[str, int]] = set()
        lines = []
        keep = -1 if resume_step is None else resume_step
        for line, point in _parse(path) if path.exists() else ():
            key = (point["split"], point["step"])
            self.reached = max(self.reached, point["step"])
            if point["step"] <= keep and key not in self._kept:
                self._kept.add(key)
                lines.append(line + "\n")
        write_text(path, "".join(lines))
        self._file = path.open("ab", buffering=0)

    def append(self, split: str, step: int, values: Mapping[str, float], wall_time: float) -> bool:
        """Append one point; `wall_time` is in unix seconds.

        Returns False, and writes nothing, where the resumed log already holds this point.

        Raises:
            OSError: the point is not written, the lines before it are whole, the next may succeed.
            ValueError: a metric has a reserved name, or the log is closed.
        """
        if not _RESERVED.isdisjoint(values):
            raise ValueError(f"a metric cannot be named any of {sorted(_RESERVED)}: {values}")
        if (split, step) in self._kept:
            return False
        metrics = {name: float(value) for name, value in values.items()}
        line = to_json({"step": step, "split": split, "time": round(wall_time, 3), **metrics})
        self._write(line.encode() + b"\n")
        return True

    def _write(self, data: bytes) -> None:
        status = os.fstat(self._file.fileno())
        if status.st_nlink == 0:  # writing to a deleted file succeeds, and nobody ever reads it
            raise FileNotFoundError(errno.ENOENT, "removed while in use", str(self._path))
        try:
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        except OSError:
            self._file.truncate(status.st_size)
            raise

    def flush(self) -> None:
        """Wait until every point is on the disk itself, safe from a power cut.

        Raises:
            OSError: the disk refuses.
        """
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """Return the points in order; non-finite metrics are floats again, torn lines are left out.

    Raises:
        OSError: the file cannot be read.
    """
    return [
        {key: float(v) if v in NONFINITE else v for key, v in point.items()}
        for _, point in _parse(path)
    ]


def _parse(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the lines that are points, and the points."""
    for line in path.read_bytes().splitlines():
        try:
            text = line.decode()
            point = json.loads(text)
        except ValueError:
            continue
        if (
            isinstance(point, dict)
            and isinstance(point.get("step"), int)
            and isinstance(point.get("split"), str)
        ):
            yield text, point
