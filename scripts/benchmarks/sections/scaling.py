"""Devices and processes at fixed global and fixed local batch, and what the model predicts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import scaling
from benchmarks.bench import Bench
from benchmarks.figures import Line, Result, Section, line
from trainer.data import idx
from trainer.data.mnist import FILES
from trainer.selftest.children import Layout

TITLE = "Scaling"
BATCH_SIZE = 64
IMAGES, TESTS = 12_800, 1_000  # enough for 200 steps at batch 64
STEPS = 200
SHORT = 1_000  # floats: gloo adds up a single one in a fifth of the time, but sends no gradients so
COMPILED = [2, 4, 8, 512]  # simulated devices that a step is compiled for


def measure(bench: Bench) -> Section:
    """Run layouts in turn; measure the constants of the model; predict what was measured."""
    most = 2 if bench.quick else 8
    there = most if bench.on_cpu else min(most, bench.machine["device_count"])
    layouts = [Layout(1, n) for n in (1, 2, 4, 8) if n <= there]
    layouts += [Layout(n, 1) for n in (2, 4) if n <= there]
    folder = write_idx(bench)
    jobs: dict[str, Any] = {}
    for layout in layouts:
        total = layout.processes * layout.devices
        for size in dict.fromkeys((BATCH_SIZE, BATCH_SIZE * total)):
            jobs[name_of(layout, size)] = partial(run, bench, folder, layout, size)
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
    facts: dict[str, Any] = {"compiled": sent.get("counts")}
    if not bench.on_cpu and bench.machine["device_count"] > 1:
        sizes = [1, scaling.MLP.message // scaling.FLOAT]
        job = partial(bench.worker, "parts.all_reduce", sizes=sizes, repeats=50)
        facts["all_reduce_of_all_devices"] = [bench.once("all-reduce", job)]
    if bench.on_cpu and sent.get("counts"):
        measured = constants(bench, sum(sent["counts"]["2"]["arrays"]))
        if "left_out" in measured:
            lines.append(line("predicted", "", "ms a step", [measured], ""))
        else:
            facts |= measured
            lines += predictions(bench, facts, [one for one in layouts if one.processes > 1])
    return Section(TITLE, lines, (), facts)


def name_of(layout: Layout, batch_size: int) -> str:
    """Return the name of a layout's line."""
    if layout.processes > 1:
        return f"{layout.processes} processes, batch {batch_size}"
    return f"{layout.devices} device{'s' * (layout.devices > 1)}, batch {batch_size}"


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


def constants(bench: Bench, floats: int) -> Result:
    """Measure what the model needs: a process's step on its share of the cores, and messages."""
    steps = {"arrays": bench.arrays, "k": 16, "dispatches": 8, "overrides": bench.overrides}
    core = partial(bench.worker, "program.speed", only_cores=bench.cores[:1], **steps)
    one_core = {
        str(size): bench.once(str(size), partial(core, batch_size=size))
        for size in (BATCH_SIZE, BATCH_SIZE // 2, BATCH_SIZE // 4)
    }
    messages = [SHORT, 30_000, floats]
    reduce = partial(bench.worker, "parts.all_reduce", sizes=messages, repeats=10)
    sums = {
        str(p): bench.once(str(p), partial(reduce, layout=Layout(p, 1)))
        for p in ((2,) if bench.quick else (2, 4))
    }
    if "left_out" in sums["2"]:
        return sums["2"]
    seconds = {p: result["seconds"] for p, result in sums.items() if "seconds" in result}
    short, long = seconds["2"][0], seconds["2"][-1]
    return {
        "one_core": one_core,
        "messages": messages,
        "all_reduce_seconds": seconds,
        # By the model's own formula of a ring, solved for its constants at p = 2.
        "latency": short / 2,
        "bandwidth": (floats - SHORT) * scaling.FLOAT / max(long - short, 1e-9),
    }


def predictions(bench: Bench, facts: Result, layouts: list[Layout]) -> list[Line]:
    """Predict the steps of several processes on this machine's cores."""
    link = scaling.Link(facts["latency"], facts["bandwidth"])
    message = facts["messages"][-1] * scaling.FLOAT
    lines = []
    for p in (layout.processes for layout in layouts):
        turns = max(1.0, p / len(bench.cores))  # processes that share a core take turns
        for size in (BATCH_SIZE, BATCH_SIZE * p):
            alone = facts["one_core"].get(str(size // p), {})
            if "seconds_per_step" not in alone:
                continue
            slowest = scaling.straggle(alone["jitter_seconds"], p)
            computing = alone["seconds_per_step"] * turns + slowest
            for way, formula in (("ring", scaling.ring), ("tree", scaling.tree)):
                reducing = formula(message, p, link) * turns
                name = f"predicted ({way}): {name_of(Layout(p, 1), size)}"
                parts = f"{computing * 1e3:.1f} computing, {reducing * 1e3:.1f} all-reduce"
                lines.append(Line(name, parts, "ms a step", [1e3 * (computing + reducing)]))
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
