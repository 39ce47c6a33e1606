"""Devices and processes at fixed global and fixed local batch, and what the model predicts."""

from functools import partial
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Line, Result, Section, line
from benchmarks.scaling import FLOAT, MLP
from benchmarks.sections import rivals
from trainer.plan import scaling
from trainer.selftest.children import Layout

TITLE = "Scaling"
BATCH_SIZE = 64
STEPS = 200
# Floats of an all-reduce; the last are those of a step. Not fewer than 1,000: gloo adds up a single
# one in a fifth of the time, but sends no gradients so.
SHORT, LONG = 1_000, MLP.message // FLOAT


def measure(bench: Bench) -> Section:
    """Run layouts in turn; measure the constants of the model; predict what was measured."""
    most = 2 if bench.quick else 8
    there = most if bench.on_cpu else min(most, bench.machine["device_count"])
    several = [Layout(n, 1) for n in (2, 4) if n <= there]
    layouts = [Layout(1, n) for n in (1, 2, 4, 8) if n <= there] + several
    jobs: dict[str, Any] = {}
    for layout in layouts:
        total = layout.processes * layout.devices
        for size in dict.fromkeys((BATCH_SIZE, BATCH_SIZE * total)):
            name = f"{name_of(layout)}, batch {size}"
            jobs[name] = partial(run, bench, layout, size)
    includes = "waiting for data and stepping, by the run's timers"
    lines = [
        line(name, includes, "ms a step", results, "step_seconds", scale=1e3)
        for name, results in bench.interleave(jobs, bench.fewer_rounds).items()
    ]

    sizes = [SHORT, 30_000, LONG]
    reduce = partial(bench.worker, "parts.all_reduce", sizes=sizes, repeats=10)
    sums = [bench.once("all-reduce", partial(reduce, layout=layout)) for layout in several]
    for layout, result in zip(several, sums, strict=True):
        for i, size in enumerate(sizes):
            name = f"all-reduce alone, {size:,} floats, {name_of(layout)}"
            lines.append(line(name, "", "ms", [result], lambda r, i=i: 1e3 * r["seconds"][i]))
    if bench.on_cpu:
        lines += predictions(bench, several, sums[0])
    return Section(TITLE, lines)


def name_of(layout: Layout) -> str:
    """Return a layout in words."""
    if layout.processes > 1:
        return f"{layout.processes} processes"
    return f"{layout.devices} device{'s' * (layout.devices > 1)}"


def run(bench: Bench, layout: Layout, batch_size: int) -> Result:
    """Train some 200 steps; add step_seconds."""
    epochs = -(-STEPS // rivals.steps_per_epoch(bench, batch_size))
    result = bench.train(
        f"train.epochs={epochs}",
        f"train.max_steps={STEPS}",
        f"train.eval_every_epochs={epochs}",
        f"train.global_batch_size={batch_size}",
        "checkpoint.every_epochs=null",
        layout=layout,
    )
    summary = result["summary"]
    waited = summary["seconds"]["data_wait"] + summary["seconds"]["step"]
    return {**result, "step_seconds": waited / summary["steps"]}


def predictions(bench: Bench, layouts: list[Layout], of_two: Result) -> list[Line]:
    """Predict the steps of several processes on this machine's cores.

    From the step of one process on one core, and the seconds of an all-reduce between two.
    """
    if "left_out" in of_two:
        return [line("predicted", "", "ms a step", [of_two], "")]
    short, _, long = of_two["seconds"]
    # By the model's own formula of a ring, solved for its constants at p = 2.
    bandwidth = (LONG - SHORT) * FLOAT / max(long - short, 1e-9)
    link = scaling.Link(short / 2, bandwidth)
    steps = {"arrays": bench.arrays, "k": 16, "dispatches": 8, "overrides": bench.overrides}
    core = partial(bench.worker, "program.speed", only_cores=bench.cores[:1], **steps)
    sizes = [(p, size) for p, _ in layouts for size in (BATCH_SIZE, BATCH_SIZE * p)]
    alone = {
        local: bench.once(f"one core, batch {local}", partial(core, batch_size=local))
        for local in sorted({size // p for p, size in sizes})
    }
    lines = []
    for p, size in sizes:
        name, result = f"{p} processes, batch {size}", alone[size // p]
        if "left_out" in result:
            lines.append(line(f"predicted: {name}", "", "ms a step", [result], ""))
            continue
        turns = max(1.0, p / len(bench.cores))  # processes that share a core take turns
        slowest = scaling.straggle(result["jitter_seconds"], p)
        computing = result["seconds_per_step"] * turns + slowest
        for way, formula in (("ring", scaling.ring), ("tree", scaling.tree)):
            reducing = formula(MLP.message, p, link) * turns
            parts = f"{computing * 1e3:.1f} computing, {reducing * 1e3:.1f} all-reduce"
            values = [1e3 * (computing + reducing)]
            lines.append(Line(f"predicted ({way}): {name}", parts, "ms a step", values))
    return lines
