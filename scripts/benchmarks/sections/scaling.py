"""Devices and processes at fixed global and fixed local batch, and what the model predicts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import scaling
from benchmarks.bench import Bench
from benchmarks.figures import Line, Result, Section, line
from trainer.formats import idx
from trainer.selftest.children import Layout
from trainer.sources.mnist import FILES

TITLE = "Scaling"
BATCH_SIZE = 64
IMAGES, TESTS = 12_800, 1_000  # enough for 200 steps at batch 64
STEPS = 200
# Floats of an all-reduce; the last are those of a step. Not fewer than 1,000: gloo adds up a single
# one in a fifth of the time, but sends no gradients so.
SHORT, LONG = 1_000, scaling.MLP.message // scaling.FLOAT
COMPILED = [2, 4, 8, 512]  # simulated devices that a step is compiled for


def measure(bench: Bench) -> Section:
    """Run layouts in turn; measure the constants of the model; predict what was measured."""
    most = 2 if bench.quick else 8
    there = most if bench.on_cpu else min(most, bench.machine["device_count"])
    several = [Layout(n, 1) for n in (2, 4) if n <= there]
    layouts = [Layout(1, n) for n in (1, 2, 4, 8) if n <= there] + several
    folder = write_idx(bench)
    jobs: dict[str, Any] = {}
    for layout in layouts:
        total = layout.processes * layout.devices
        for size in dict.fromkeys((BATCH_SIZE, BATCH_SIZE * total)):
            name = f"{name_of(layout)}, batch {size}"
            jobs[name] = partial(run, bench, folder, layout, size)
    includes = "waiting for data and stepping, by the run's timers"
    lines = [
        line(name, includes, "ms a step", results, "step_seconds", scale=1e3)
        for name, results in bench.interleave(jobs, bench.fewer_rounds).items()
    ]

    flags = Layout(1, max(COMPILED))
    compile_all = partial(bench.worker, "program.traffic", layout=flags, devices=COMPILED)
    sent = bench.once("compiled", compile_all)
    for n in COMPILED:
        includes = f"compiled for {n} simulated devices, not run"
        for what, value in (
            ("collectives", lambda r, n=n: sum(r["counts"][str(n)]["collectives"].values())),
            ("bytes", lambda r, n=n: r["counts"][str(n)]["bytes"]),
        ):
            lines.append(line(f"{what} a step, {n} devices", includes, "", [sent], value))

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


def run(bench: Bench, folder: Path, layout: Layout, batch_size: int) -> Result:
    """Train some 200 steps; add step_seconds."""
    epochs = -(-STEPS * batch_size // IMAGES)
    result = bench.train(
        "data=idx",
        f"data.root={folder}",
        f"train.epochs={epochs}",
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
    bandwidth = (LONG - SHORT) * scaling.FLOAT / max(long - short, 1e-9)
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
            reducing = formula(scaling.MLP.message, p, link) * turns
            parts = f"{computing * 1e3:.1f} computing, {reducing * 1e3:.1f} all-reduce"
            values = [1e3 * (computing + reducing)]
            lines.append(Line(f"predicted ({way}): {name}", parts, "ms a step", values))
    return lines


def write_idx(bench: Bench) -> Path:
    """Write the first images of the data set as the four files of data=idx; return the folder."""
    folder = bench.scratch / "idx"
    folder.mkdir(exist_ok=True)
    side = int(bench.machine["dataset"]["pixels"] ** 0.5)
    parts = [(split, kind) for split in ("train", "test") for kind in ("images", "labels")]
    for file, (split, kind) in zip(FILES, parts, strict=True):
        source = np.load(f"{bench.arrays}/{split}_{kind}.npy", mmap_mode="r")
        count = IMAGES if split == "train" else TESTS
        array = source[np.arange(count) % len(source)]
        dims = (count, side, side) if kind == "images" else (count,)
        (folder / file).write_bytes(idx.header(dims) + array.tobytes())
    return folder
