"""Measurements that each run in a process of their own: functions, JSON in and JSON out.

`python -m benchmarks.workers MODULE.FUNCTION ARGUMENTS` prints the answer as a marked line. This
module imports nothing that a Python with only PyTorch and NumPy might lack.
"""

from __future__ import annotations

import json
from typing import Any

MARK = "benchmark-answer "


class LeftOut(Exception):
    """This machine cannot do a measurement; the message says why."""


def find_answer(output: str) -> dict[str, Any] | None:
    """Return the answer in what a process has printed; None if there is none."""
    for line in reversed(output.splitlines()):
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    return None
