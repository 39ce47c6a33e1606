"""Training speed by batch size and by K, the optimizer steps in a dispatch."""

from functools import partial
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Section, line
from benchmarks.sections import rivals

TITLE = "Training speed by batch size and by steps a dispatch (K)"
INCLUDES = "all of the trainer but evaluation"


def measure(bench: Bench) -> Section:
    """Measure both, in turn with a rival."""
    sizes = [64, 1024] if bench.quick else [64, 256, 1024, 4096]
    ks = [1] if bench.quick else [1, 8, 32, 128, rivals.steps_per_epoch(bench, 64)]
    epochs = (1 if bench.quick else 2) * bench.times
    train = partial(bench.train, f"train.epochs={epochs}", f"train.eval_every_epochs={epochs}")

    measured: dict[str, tuple[Any, str, Any]] = {}  # name: a job, what it includes, its rate
    for size in sizes:
        measured[f"trainer, batch {size}"] = (
            partial(train, f"train.global_batch_size={size}"),
            f"{INCLUDES}; K as configured",
            "examples_per_second",
        )
        measured[f"{rivals.SLICED}, batch {size}"] = (
            rivals.jobs(bench, size)[rivals.SLICED],
            "the loop alone",
            lambda result, size=size: size / result["seconds_per_step"],
        )
    for k in ks:
        job = partial(train, f"train.steps_per_dispatch={k}")
        measured[f"trainer, K={k}, batch 64"] = (job, INCLUDES, "examples_per_second")
    jobs = {name: job for name, (job, _, _) in measured.items()}
    results = bench.interleave(jobs, bench.fewer_rounds)
    lines = [
        line(name, includes, "images/s", results[name], rate)
        for name, (_, includes, rate) in measured.items()
    ]
    return Section(TITLE, lines)
