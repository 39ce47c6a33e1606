"""Start-up: imports, configuration, data, compilation cold and warm, the first dispatch."""

import shutil
import time
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.figures import Result, Section, line

TITLE = "Start-up"
IMPORTS = "import jax, orbax, grain, trainer.train.job"
CONFIGURATION = "python -m trainer --cfg job"
COMPOSED = "the configuration composed and printed, no jax"
READ = "imports, files read and checked, devices found"
PARTS = {
    "first_dispatch": ("first dispatch, STATE cache", "from the command to the steps' results"),
    "startup": ("- of it Python, data and devices, STATE", READ),
    "restore": ("- of it first weights, STATE", "drawn on the device; run directory opened"),
    "compile": ("compilation, STATE", "training and evaluation, both shapes of each"),
    "wall": ("one epoch in all, STATE", "the command from start to end"),
}


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
    lines = [
        line(IMPORTS, "Python's own start included", "s", results[IMPORTS], "wall"),
        line(CONFIGURATION, COMPOSED, "s", results[CONFIGURATION], "wall"),
    ]
    for state in ("cold", "warm"):
        for value, (name, includes) in PARTS.items():
            name = name.replace("STATE", state)
            lines.append(line(name, includes, "s", results[state], value))
    return Section(TITLE, lines)
