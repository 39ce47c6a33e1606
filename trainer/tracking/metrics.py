"""metrics.jsonl: one JSON object a logged point, each point once however often a run restarts.

The keys are `step` (int), `split` ("train" or "eval"), `time` (unix seconds) and the metrics.
JSON has no NaN and no infinities: they are the strings "NaN", "Infinity", "-Infinity".
"""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.job.files import NONFINITE, to_json, write_text


class MetricsLog:
    """The log of one run, open for appending.

    A point is one write() of one line, so a killed process leaves at most one torn line, the last.
    A failed write leaves none: the part that was written is cut off again.
    """

    def __init__(self, path: Path, resume_step: int | None) -> None:
        """Open the log; keep its points up to and including a step, or with None no point.

        The order of points stays; of points with the same split and step, the first stays.

        Raises:
            OSError: the file cannot be read or written.
        """
        self.reached = 0  # last step of the log before it was opened
        self._kept: set[tuple[str, int]] = set()
        lines = []
        for line, point in _parse(path) if path.exists() else ():
            key = (point["split"], point["step"])
            self.reached = max(self.reached, point["step"])
            if resume_step is not None and point["step"] <= resume_step and key not in self._kept:
                self._kept.add(key)
                lines.append(line + "\n")
        write_text(path, "".join(lines))
        self._file = path.open("ab", buffering=0)

    def append(self, split: str, step: int, values: Mapping[str, float], wall_time: float) -> bool:
        """Append one point; `wall_time` is in unix seconds.

        Returns False, and writes nothing, if the resumed log already has this point.

        Raises:
            OSError: the point is not written, the lines before it are whole, the next may succeed.
            ValueError: the log is closed.
        """
        if (split, step) in self._kept:
            return False
        metrics = {name: float(value) for name, value in values.items()}
        point = {"step": step, "split": split, "time": round(wall_time, 3), **metrics}
        line = to_json(point).encode() + b"\n"
        size = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._file.truncate(size)
            raise
        return True

    def flush(self) -> None:
        """Wait until every point is on the disk; OSError if it refuses."""
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
    """Yield each whole line and its point."""
    for line in path.read_text(errors="replace").splitlines():
        try:
            yield line, json.loads(line)
        except ValueError:  # torn by a kill, or zeros after a power cut
            continue
