"""Start-up: imports, configuration, data, compilation cold and warm, the first dispatch."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, Result
from benchmarks.lines import Section, line

TITLE = "Start-up"
IMPORTS = "import jax, orbax, grain, trainer.train.job"


def measure(bench: Bench) -> Section:
    """Start with an empty and with a filled compilation cache, in turn."""
    cold_cache = bench.scratch / "cold-xla"

    def start(cache: Path | str) -> Result:
        seen: list[float] = []

        def look(directory: Path) -> None:
            # It says so as soon as the first dispatch has come back.
            timer = directory / "goodput.json"
            if not seen and timer.exists() and '"reached_step": 0,' not in timer.read_text():
                seen.append(time.time())

        result: dict[str, Any] = bench.train(
            "train.epochs=1", f"train.compilation_cache_dir={cache}", look=look
        )
        return {**result, "first_dispatch": seen[0] - result["began"]}

    def cold() -> Result:
        shutil.rmtree(cold_cache, ignore_errors=True)
        return start(cold_cache)

    bench.warm_up()
    found = bench.interleave(
        {
            IMPORTS: lambda: bench.command("-c", "import trainer.train.job"),
            "configuration": lambda: bench.command(
                "-m", "trainer", "+experiment=mlp", "--cfg", "job"
            ),
            "cold": cold,
            "warm": lambda: start(bench.xla_cache),
        }
    )
    lines = [
        line(IMPORTS, "Python's own start included", "s", found[IMPORTS], "wall"),
        line(
            "python -m trainer --cfg job",
            "the configuration composed and printed, no jax",
            "s",
            found["configuration"],
            "wall",
        ),
    ]
    for state in ("cold", "warm"):
        runs = found[state]
        lines += [
            line(
                f"first dispatch, {state} cache",
                "from the command until its steps have come back",
                "s",
                runs,
                "first_dispatch",
            ),
            line(
                f"- of it Python, data and devices, {state}",
                "imports, files read and checked, devices found",
                "s",
                runs,
                "summary",
                "seconds",
                "startup",
            ),
            line(
                f"- of it first weights, {state}",
                "drawn on the device; run directory opened",
                "s",
                runs,
                "summary",
                "seconds",
                "restore",
            ),
            line(
                f"compilation, {state}",
                "training and evaluation, both shapes of each",
                "s",
                runs,
                "summary",
                "seconds",
                "compile",
            ),
            line(
                f"one epoch in all, {state}",
                "the command from start to end",
                "s",
                runs,
                "wall",
            ),
        ]
    return Section(TITLE, lines, [], {})
