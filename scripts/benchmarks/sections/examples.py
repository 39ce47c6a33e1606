"""Training speed of the examples: the trainer beside PyTorch and a plain Flax + Optax loop."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import ROOT, Bench
from benchmarks.figures import Line, Result, Section, line, ratios
from benchmarks.sections.rivals import COMPILED, FLAX, SLICED

TITLE = "Training speed of the examples"
# Epochs to train, and with --quick; its own options with --quick; whether it brings its data.
EXAMPLES = {
    "cnn": ((2, 1), [], False),
    "transformer": ((1, 1), ["data.options.size=400000"], True),
    "tabular": ((400, 100), [], True),
}
TRAINER = "the trainer"
INCLUDES = {
    TRAINER: "training time: stream, shuffling, metrics, TensorBoard, guard, checkpoints",
    FLAX: "one jitted step a batch from the host, shuffled, losses fetched at the end",
    SLICED: "the loop alone: tensors cut by hand, whole batches only, no shuffling, no metrics",
    COMPILED: "as above, the model and its loss compiled; compilation not counted",
}


def measure(bench: Bench) -> Section:
    """Measure one example after the other: in each, all of them in turn."""
    lines: list[Line] = []
    quotients: list[Line] = []
    for name in EXAMPLES:
        rates = list(compare(bench, name).values())
        lines += rates
        quotients += [
            ratios(f"{rates[0].name} / {rival.name.removeprefix(f'{name}: ')}", rates[0], rival)
            for rival in rates[1:]
        ]
    remark = "All take the same data, sizes, batch size and optimizer; the rivals are in examples/."
    return Section(TITLE, lines + quotients, [remark])


def compare(bench: Bench, name: str) -> dict[str, Line]:
    """Return the examples a second of each, the trainer first."""
    epochs, quick, brings_data = EXAMPLES[name]
    folder, file = ROOT / "examples" / name, ROOT / "examples" / name / f"{name}.py"
    options = [f"model.module={file}", *(quick if bench.quick else [])]
    options += ["data=module", f"data.module={file}"] if brings_data else []
    experiment = ["--config-dir", str(folder), f"+experiment={name}"]
    options = bench.merged(options)
    arrays = str(bench.scratch / name)
    parts = partial(bench.worker, "parts.example", folder=arrays, overrides=experiment + options)
    facts = bench.once(f"{name}, its data", parts)
    if "left_out" in facts:
        return {TRAINER: line(f"{name}: {TRAINER}", "", "examples/s", [facts], "")}
    batch_size, examples = facts["batch_size"], facts["examples"]
    steps = -(-examples // batch_size)
    timed = {
        "arrays": arrays,
        "batch_size": batch_size,
        "warmup_steps": min(50, steps),
        "steps": steps * -(-(50 if bench.quick else 400) // steps),
        "file": str(folder / "rivals.py"),
        "options": facts["options"],
        "optim": facts["optim"],
    }
    torch = partial(bench.worker, "torch_loop.example", **timed)
    count = epochs[bench.quick] * bench.times
    ends = [f"train.epochs={count}", f"train.eval_every_epochs={count}"]
    jobs = {
        TRAINER: partial(bench.train, *options, *ends, experiment=experiment),
        FLAX: partial(bench.worker, "flax_loop.example", **timed),
        SLICED: partial(torch, variant="sliced"),
        COMPILED: partial(torch, variant="compiled"),
    }
    results = bench.interleave(jobs)

    def rate(result: Result, of: str) -> float:
        if of == TRAINER:
            return float(result["summary"]["examples_per_second"])
        return (examples / steps if of == FLAX else batch_size) / result["seconds_per_step"]

    return {
        of: line(f"{name}: {of}", includes, "examples/s", results[of], partial(rate, of=of))
        for of, includes in INCLUDES.items()
    }
