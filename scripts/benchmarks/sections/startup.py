"""Start-up: imports, configuration, data, compilation cold and warm, the first dispatch."""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.figures import Result, Section, line

TITLE = "Start-up"
IMPORTS = "import jax, orbax, grain, trainer.train.job"
CONFIGURATION = "python -m trainer --cfg job"


def measure(bench: Bench) -> Section:
    """Start with an empty and with a filled compilation cache, in turn."""
    cold_cache = bench.scratch / "cold-xla"

    def start(cache: Path | str) -> Result:
        seen: list[float] = []

        def look(directory: Path) -> None:
            # The trainer writes this file as soon as the first dispatch has come back.
            timer = directory / "goodput.json"
            if not seen and timer.exists() and '"reached_step": 0,' not in timer.read_text():
                seen.append(time.time())

        cached = f"train.compilation_cache_dir={cache}"
        result = bench.train("train.epochs=1", cached, look=look)
        spent = result["summary"]["seconds"]
        return {**result, "first_dispatch": seen[0] - result["began"], **spent}

    def cold() -> Result:
        shutil.rmtree(cold_cache, ignore_errors=True)
        return start(cold_cache)

    bench.warm_up()
    results = bench.interleave(
        {
            IMPORTS: partial(bench.command, "-c", "import trainer.train.job"),
            CONFIGURATION: partial(
                bench.command, "-m", "trainer", "+experiment=mlp", "--cfg", "job"
            ),
            "cold": cold,
            "warm": lambda: start(bench.xla_cache),
        }
    )
    composed = "the configuration composed and printed, no jax"
    lines = [
        line(IMPORTS, "Python's own start included", "s", results[IMPORTS], "wall"),
        line(CONFIGURATION, composed, "s", results[CONFIGURATION], "wall"),
    ]
    for state in ("cold", "warm"):
        for name, includes, value in (
            (
                f"first dispatch, {state} cache",
                "from the command until its steps have come back",
                "first_dispatch",
            ),
            (
                f"- of it Python, data and devices, {state}",
                "imports, files read and checked, devices found",
                "startup",
            ),
            (
                f"- of it first weights, {state}",
                "drawn on the device; run directory opened",
                "restore",
            ),
            (
                f"compilation, {state}",
                "training and evaluation, both shapes of each",
                "compile",
            ),
            (f"one epoch in all, {state}", "the command from start to end", "wall"),
        ):
            lines.append(line(name, includes, "s", results[state], value))
    return Section(TITLE, lines)
