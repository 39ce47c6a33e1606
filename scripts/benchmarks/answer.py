"""How a measurement in its own process is asked and answers: JSON in, a marked line of JSON out.

Imports nothing that a foreign Python (one that only has PyTorch) might lack.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

MARK = "benchmark-answer "


class LeftOut(Exception):
    """A measurement that this machine cannot do; the message says why."""


def serve(measure: Callable[..., Mapping[str, Any]]) -> None:
    """Call `measure` with the arguments of the command line, and print its answer."""
    try:
        answer = dict(measure(**json.loads(sys.argv[1])))
    except LeftOut as reason:
        answer = {"left_out": str(reason)}
    print(f"\n{MARK}{json.dumps(answer)}", flush=True)


def find(output: str) -> dict[str, Any] | None:
    """Return the answer in what a process has printed; None where there is none."""
    for line in reversed(output.splitlines()):
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    return None
