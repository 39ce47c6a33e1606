"""Training speed at batch 64: the trainer, its rivals and the roofs, in turn."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.bench import Bench, Result
from benchmarks.lines import Line, Section, line, ratios
from benchmarks.scaling import Net

TITLE = "Training speed at batch 64"
BATCH_SIZE = 64
OWN_K = 134  # steps a dispatch of the program that is timed without the loop

TRAINER = "python -m trainer +experiment=mlp"
LOADER, SLICED, COMPILED = "PyTorch, DataLoader", "PyTorch, sliced by hand", "torch.compile"
NOTEBOOK, FLAX = "the notebook's JAX loop", "Flax + Optax"
PROGRAM, ROOFS = "the trainer's program alone", "roofs"

INCLUDES = {
    LOADER: "the loop alone: batches from a DataLoader over tensors, no shuffling, no metrics",
    SLICED: "the loop alone: uint8 tensors cut by hand, no shuffling, no metrics",
    COMPILED: "as above, the loss compiled; compilation not counted",
    NOTEBOOK: "one jitted step a batch from the host, the loss fetched each step, no shuffling",
    FLAX: "one jitted step a batch from the host, shuffled, losses fetched at the end",
    PROGRAM: f"{OWN_K} steps a dispatch, data on the device already: no stream, metrics or loop",
}


def jobs(bench: Bench, batch_size: int) -> dict[str, Any]:
    """Return what trains, as jobs for interleave: the rivals."""
    steps = 200 if bench.quick else steps_per_epoch(bench, batch_size)
    timed = {
        "sizes": bench.machine["sizes"],
        "arrays": bench.arrays,
        "batch_size": batch_size,
        "warmup_steps": 50,
        "steps": steps,
        "mean": bench.machine["pixel_mean"],
        "std": bench.machine["pixel_std"],
        "precision": bench.machine["precision"],
    }
    return {
        LOADER: partial(bench.worker, "torch_loop", variant="loader", **timed),
        SLICED: partial(bench.worker, "torch_loop", variant="sliced", **timed),
        COMPILED: partial(bench.worker, "torch_loop", variant="compiled", **timed),
        NOTEBOOK: partial(bench.worker, "notebook_loop", **timed),
        FLAX: partial(bench.worker, "flax_loop", **timed),
    }


def steps_per_epoch(bench: Bench, batch_size: int) -> int:
    """Return the steps of an epoch, the short last one included."""
    return -(-bench.machine["dataset"]["train_examples"] // batch_size)


def program(bench: Bench, worker: str = "own_step") -> partial[Result]:
    """Return the job that times the program without its loop; `worker` takes what own_step does."""
    return partial(
        bench.worker,
        worker,
        arrays=bench.arrays,
        batch_size=BATCH_SIZE,
        k=OWN_K,
        dispatches=4 if bench.quick else 14,
        overrides=bench.overrides,
    )


def train(bench: Bench, epochs: int, *overrides: str) -> Result:
    """Run the trainer; add epoch_seconds, of training, and everything_seconds, of wall clock."""
    result = bench.train(f"train.epochs={epochs}", *overrides)
    summary = result["summary"]
    ends = [point["time"] for point in result["points"] if point["split"] == "eval"]
    return {
        **result,
        "epoch_seconds": summary["train_seconds"] / epochs,
        "everything_seconds": (ends[-1] - ends[0]) / max(1, len(ends) - 1),
    }


def measure(bench: Bench) -> Section:
    """Measure, and compare round by round."""
    epochs = (2 if bench.quick else 4) * bench.times
    steps = steps_per_epoch(bench, BATCH_SIZE)
    sizes = bench.machine["sizes"]
    found = bench.interleave(
        {
            TRAINER: lambda: train(bench, epochs),
            **jobs(bench, BATCH_SIZE),
            PROGRAM: program(bench),
            ROOFS: partial(
                bench.worker,
                "roofs",
                batch_size=BATCH_SIZE,
                sizes=sizes,
                precision=bench.machine["precision"],
            ),
        }
    )
    unit = "s an epoch"
    trainer = line(
        TRAINER,
        "training time: stream, shuffling, metrics, TensorBoard, guard, a checkpoint every epoch",
        unit,
        found[TRAINER],
        "epoch_seconds",
    )
    rivals = [
        line(name, includes, unit, found[name], "seconds_per_step", scale=steps)
        for name, includes in INCLUDES.items()
    ]
    operations = Net(tuple(sizes)).flops(BATCH_SIZE)
    peak = line(
        f"{bench.machine['precision']} matrix product 2048 x 2048",
        "jax, the same process as the three below",
        "GFLOP/s",
        found[ROOFS],
        "matrix_flops",
        scale=1e-9,
    )
    reached = Line(
        "the trainer's matrix products",
        f"{operations / 1e6:.0f} MFLOP a step by training time",
        "GFLOP/s",
        [operations * steps / seconds / 1e9 for seconds in trainer.values],
    )
    lines = [
        trainer,
        line(
            "the same, wall clock",
            "all of that and an evaluation every epoch; from the end of "
            "the first epoch to the end of the last",
            unit,
            found[TRAINER],
            "everything_seconds",
        ),
        *rivals,
        line(
            "the step's matrix products alone",
            "each of the eight in a program of its own, added",
            unit,
            found[ROOFS],
            "products_seconds",
            scale=steps,
        ),
        peak,
        line(
            "the step's matrix products",
            "the rate of the eight",
            "GFLOP/s",
            found[ROOFS],
            "products_flops",
            scale=1e-9,
        ),
        reached,
        line(
            "memory bandwidth",
            "x + y / 2 over 256 MiB each, by jax",
            "GB/s",
            found[ROOFS],
            "bytes_per_second",
            scale=1e-9,
        ),
        *(ratios(f"{rival.name} : trainer", rival, trainer) for rival in rivals),
        ratios("the trainer's rate : matrix product", reached, peak),
    ]
    facts = {"batch_size": BATCH_SIZE, "flops": operations, "roofs": found[ROOFS]}
    facts["program"] = found[PROGRAM]
    return Section(TITLE, lines, [], facts)
