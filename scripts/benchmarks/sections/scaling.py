"""Devices and processes at fixed global and fixed local batch, and what the model predicts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import scaling, scaling_tables
from benchmarks.bench import Bench, Result
from benchmarks.lines import Line, Section, line
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
    found = bench.interleave(jobs, bench.fewer_rounds)
    lines = [
        line(
            name,
            "waiting for data and stepping, by the run's account",
            "ms a step",
            results,
            "step_seconds",
            scale=1e3,
        )
        for name, results in found.items()
    ]
    flags = Layout(1, max(COMPILED))
    sent = bench.interleave(
        {"compiled": partial(bench.worker, "collectives", layout=flags, devices=COMPILED)}, 1
    )["compiled"]
    for n in COMPILED:
        path = ("counts", str(n))
        includes = f"compiled for {n} simulated devices, not run"
        totals = [
            r if "left_out" in r else {"all": sum(r["counts"][str(n)]["collectives"].values())}
            for r in sent
        ]
        lines += [
            line(f"collectives a step, {n} devices", includes, "", totals, "all"),
            line(f"bytes a step, {n} devices", includes, "", sent, *path, "bytes"),
        ]
    facts: dict[str, Any] = {"compiled": sent[0].get("counts")}
    if not bench.on_cpu and bench.machine["device_count"] > 1:
        sizes = [1, scaling_tables.MLP.message // scaling.FLOAT]
        job = partial(bench.worker, "allreduce", sizes=sizes, repeats=50)
        facts["all_reduce_of_all_devices"] = bench.interleave({"all-reduce": job}, 1)["all-reduce"]
    if bench.on_cpu and sent[0].get("counts"):
        arrays = sent[0]["counts"]["2"]["arrays"]
        found_constants = constants(bench, sum(arrays))
        if found_constants:
            facts |= found_constants
            lines += predictions(bench, facts, [la for la in layouts if la.processes > 1])
    return Section(TITLE, lines, [], facts)


def name_of(layout: Layout, batch_size: int) -> str:
    """Return what a layout's line is called."""
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


def constants(bench: Bench, floats: int) -> dict[str, Any]:
    """Measure what the model needs: a process's step on its share of the cores, and messages.

    Returns nothing where two processes cannot add up arrays here.
    """
    sizes = [BATCH_SIZE // p for p in (1, 2, 4)]
    steps = {"arrays": bench.arrays, "k": 16, "dispatches": 8, "overrides": bench.overrides}
    one_core = bench.interleave(
        {
            str(size): partial(
                bench.worker, "own_step", only_cores=bench.cores[:1], batch_size=size, **steps
            )
            for size in sizes
        },
        1,
    )
    messages = [SHORT, 30_000, floats]
    sums = bench.interleave(
        {
            str(p): partial(
                bench.worker, "allreduce", layout=Layout(p, 1), sizes=messages, repeats=10
            )
            for p in ((2,) if bench.quick else (2, 4))
        },
        1,
    )
    found = {p: results[0]["seconds"] for p, results in sums.items() if "seconds" in results[0]}
    if "2" not in found:
        return {}
    short, long = found["2"][0], found["2"][-1]
    return {
        "one_core": {size: results[0] for size, results in one_core.items()},
        "messages": messages,
        "all_reduce_seconds": found,
        # By the model's own formula of a ring, solved for its constants at p = 2.
        "latency": short / 2,
        "bandwidth": (floats - SHORT) * scaling.FLOAT / max(long - short, 1e-9),
    }


def predictions(bench: Bench, facts: dict[str, Any], layouts: list[Layout]) -> list[Line]:
    """Predict the steps of several processes on this machine's cores."""
    link = scaling.Link(facts["latency"], facts["bandwidth"])
    found = []
    for layout in layouts:
        p = layout.processes
        turns = max(1.0, p / len(bench.cores))  # processes that share a core take turns
        for size in (BATCH_SIZE, BATCH_SIZE * p):
            alone = facts["one_core"].get(str(size // p), {})
            if "seconds_per_step" not in alone:
                continue
            slowest = scaling.straggle(alone["jitter_seconds"], p)
            computing = alone["seconds_per_step"] * turns + slowest
            for way, formula in (("ring", scaling.ring), ("tree", scaling.tree)):
                message = facts["messages"][-1] * scaling.FLOAT
                reducing = formula(message, p, link) * turns
                found.append(
                    Line(
                        f"predicted ({way}): {name_of(layout, size)}",
                        f"{computing * 1e3:.1f} computing, {reducing * 1e3:.1f} all-reduce",
                        "ms a step",
                        [1e3 * (computing + reducing)],
                    )
                )
    return found


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
