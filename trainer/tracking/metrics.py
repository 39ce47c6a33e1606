"""metrics.jsonl: one JSON object a logged point, each point once however often a run restarts.

The keys are `step` (int), `split` ("train", "validation" or "test"; older versions wrote "eval" for
"test"), `time` (unix seconds) and the metrics.
JSON has no NaN and no infinities: they are the strings "NaN", "Infinity", "-Infinity".
"""

import errno
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.job.files import LARGEST_LOG, Damaged, parse, read_bytes, to_json, write_text

SHAPE = {"step": range(2**63), "split": str, "time": float, "*": float}  # of a point


class MetricsLog:
    """The log of one run, open for appending.

    A point is one write() of one line, so a killed process leaves at most one torn line, the last.
    A failed write leaves none: the part that was written is cut off again.
    """

    def __init__(
        self,
        path: Path,
        resume_step: int | None,
        warn: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Open the log; keep its points up to and including a step, or with None no point.

        The order of points stays; of points with the same split and step, the first stays. `warn`
        gets a message if points are lost: the log is missing, or damaged by more than a kill.

        Raises:
            OSError: the file cannot be read or written.
        """
        self.reached = 0  # last step of the log before it was opened
        self._kept: set[tuple[str, int]] = set()
        lines, log = list[str](), list[tuple[str, dict[str, Any] | None]]()
        try:
            with suppress(FileNotFoundError):
                log = _parse(path)
            if resume_step and not any(point for _, point in log):
                warn(f"{path} has no points: those up to step {resume_step:,} are lost")
        except Damaged as damage:
            aside = path.with_name(f"{path.name}.bad")
            path.rename(aside)
            warn(f"{damage}, and a new one begins: renamed to {aside}")
        if bad := sum(point is None for _, point in log[:-1]):  # a kill tears the last one only
            warn(f"{path}: {bad} damaged lines are left out")
        for line, point in log:
            if point is None:
                continue
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
        OSError, Damaged: the file cannot be read.
    """
    return [point for _, point in _parse(path) if point is not None]


def _parse(path: Path) -> list[tuple[str, dict[str, Any] | None]]:
    """Return each line and its point; None: torn by a kill, zeros after a power cut, or damaged."""
    lines = read_bytes(path, LARGEST_LOG).decode(errors="replace").splitlines()
    return [(line, _point(line.encode())) for line in lines]


def _point(line: bytes) -> dict[str, Any] | None:
    with suppress(Damaged):
        point = dict(parse(line, SHAPE, "the line"))
        return {**point, "split": "test"} if point["split"] == "eval" else point
    return None
