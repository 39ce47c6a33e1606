"""Training speed at batch 64: the trainer, its rivals and the roofs, in turn."""

from functools import partial
from typing import Any

from benchmarks.bench import ROOT, Bench
from benchmarks.figures import Line, Result, Section, line, ratios
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
    SLICED: "the loop alone: tensors cut by hand, no shuffling, no metrics",
    COMPILED: "as above, the loss compiled; compilation not counted",
    NOTEBOOK: "one jitted step a batch from the host, the loss fetched each step, no shuffling",
    FLAX: "one jitted step a batch from the host, shuffled, losses fetched at the end",
    PROGRAM: f"{OWN_K} steps a dispatch, data on the device already: no stream, metrics or loop",
}


def jobs(bench: Bench, batch_size: int) -> dict[str, Any]:
    """Return the rivals' training, as jobs for interleave."""
    pixels = {"mean": bench.machine["pixel_mean"], "std": bench.machine["pixel_std"]}
    timed = {
        "file": str(ROOT / "scripts/benchmarks/workers/mlp.py"),
        "options": {"sizes": bench.machine["sizes"], **pixels},
        "optim": {"lr": 0.05, "momentum": 0.9, "nesterov": True},
        "arrays": bench.arrays,
        "batch_size": batch_size,
        "warmup_steps": 50,
        "steps": 200 if bench.quick else steps_per_epoch(bench, batch_size),
        "precision": bench.machine["precision"],
    }
    torch = partial(bench.worker, "torch_loop.measure", **timed)
    return {
        LOADER: partial(torch, variant="loader"),
        SLICED: partial(torch, variant="sliced"),
        COMPILED: partial(torch, variant="compiled"),
        NOTEBOOK: partial(bench.worker, "notebook_loop.measure", **timed),
        FLAX: partial(bench.worker, "flax_loop.measure", **timed),
    }


def steps_per_epoch(bench: Bench, batch_size: int) -> int:
    """Return the steps of an epoch, the short last one included."""
    return -(-bench.machine["dataset"]["train_examples"] // batch_size)


def program(bench: Bench, worker: str = "program.speed") -> partial[Result]:
    """Return the job that times the program without its loop; `worker` takes the same arguments."""
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
    ends = [point["time"] for point in result["evaluations"]]
    return {
        **result,
        "epoch_seconds": result["summary"]["train_seconds"] / epochs,
        "everything_seconds": (ends[-1] - ends[0]) / max(1, len(ends) - 1),
    }


def measure(bench: Bench) -> Section:
    """Measure, and compare round by round."""
    epochs = (2 if bench.quick else 4) * bench.times
    steps = steps_per_epoch(bench, BATCH_SIZE)
    sizes, precision = bench.machine["sizes"], bench.machine["precision"]
    multiplied = {"batch_size": BATCH_SIZE, "sizes": sizes, "precision": precision}
    results = bench.interleave(
        {
            TRAINER: lambda: train(bench, epochs),
            **jobs(bench, BATCH_SIZE),
            PROGRAM: program(bench),
            ROOFS: partial(bench.worker, "roofs.measure", **multiplied),
        }
    )

    own, roofs, epoch = results[TRAINER], results[ROOFS], "s an epoch"
    includes = (
        "training time: stream, shuffling, metrics, TensorBoard, guard, a checkpoint an epoch"
    )
    trainer = line(TRAINER, includes, epoch, own, "epoch_seconds")
    includes = (
        "all of that and an evaluation an epoch; from the end of the first to that of the last"
    )
    wall = line("the same, wall clock", includes, epoch, own, "everything_seconds")
    rivals = [
        line(name, includes, epoch, results[name], "seconds_per_step", steps)
        for name, includes in INCLUDES.items()
    ]
    includes = "each of the eight in a program of its own, added"
    name = "the step's matrix products alone"
    products = line(name, includes, epoch, roofs, "products_seconds", steps)

    name, includes = f"{precision} matrix product 2048 x 2048", "jax, in the process of those below"
    peak = line(name, includes, "GFLOP/s", roofs, "matrix_flops", 1e-9)
    name, includes = "the step's matrix products", "the rate of the eight"
    of_step = line(name, includes, "GFLOP/s", roofs, "products_flops", 1e-9)
    operations = Net(tuple(sizes)).flops(BATCH_SIZE)
    name, includes = "the trainer's matrix products", f"{operations / 1e6:.0f} MFLOP a step"
    rates = [operations * steps / value / 1e9 for value in trainer.values]
    reached = Line(name, f"{includes} by training time", "GFLOP/s", rates)
    name, includes = "memory bandwidth", "x + y / 2 over 256 MiB each, by jax"
    bandwidth = line(name, includes, "GB/s", roofs, "bytes_per_second", 1e-9)
    quotients = [ratios(f"{rival.name} : trainer", rival, trainer) for rival in rivals]
    quotients.append(ratios("the trainer's rate : matrix product", reached, peak))
    measured = [trainer, wall, *rivals, products, peak, of_step, reached, bandwidth]
    return Section(TITLE, measured + quotients)
