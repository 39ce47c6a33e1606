"""Training speed by batch size and by K, the optimizer steps in a dispatch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.bench import Bench
from benchmarks.figures import Result, Section, line
from benchmarks.sections import rivals

TITLE = "Training speed by batch size and by steps a dispatch (K)"
INCLUDES = "all of the trainer but evaluation"


def measure(bench: Bench) -> Section:
    """Measure both, in turn with a rival."""
    sizes = [64, 1024] if bench.quick else [64, 256, 1024, 4096]
    ks = [1] if bench.quick else [1, 8, 32, 128, rivals.steps_per_epoch(bench, 64)]
    epochs = (1 if bench.quick else 2) * bench.times
    train = partial(bench.train, f"train.epochs={epochs}", f"train.eval_every_epochs={epochs}")
    jobs = {}
    for size in sizes:
        jobs[f"trainer, batch {size}"] = partial(train, f"train.global_batch_size={size}")
        jobs[f"{rivals.SLICED}, batch {size}"] = rivals.jobs(bench, size)[rivals.SLICED]
    for k in ks:
        jobs[f"trainer, K={k}, batch 64"] = partial(train, f"train.steps_per_dispatch={k}")
    results = bench.interleave(jobs, bench.fewer_rounds)

    lines = []
    by_batch: dict[str, dict[str, float]] = {}
    by_k: dict[str, float] = {}

    def add(name: str, includes: str, value: Callable[[Result], float]) -> None:
        lines.append(line(name, includes, "images/s", results[name], value))
        if lines[-1].values and "K=" not in name:
            what, size = name.rsplit(", batch ", 1)
            by_batch.setdefault(what, {})[size] = lines[-1].median

    def own(result: Result) -> float:
        return float(result["summary"]["examples_per_second"])

    for size in sizes:
        add(f"trainer, batch {size}", f"{INCLUDES}; K as configured", own)
        add(
            f"{rivals.SLICED}, batch {size}",
            "the loop alone",
            lambda result, size=size: size / result["seconds_per_step"],
        )
    for k in ks:
        add(f"trainer, K={k}, batch 64", INCLUDES, own)
        if lines[-1].values:
            by_k[str(k)] = lines[-1].median
    return Section(TITLE, lines, (), {"by_batch": by_batch, "by_k": by_k})
