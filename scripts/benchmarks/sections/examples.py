"""Training speed of an example: the trainer beside PyTorch and a plain Flax + Optax loop."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import ROOT, Bench
from benchmarks.figures import Result, Section, line, ratios
from benchmarks.sections.rivals import COMPILED, FLAX, INCLUDES, SLICED

# Epochs to train, and with --quick; further options with --quick; whether it brings its own data.
EXAMPLES: dict[str, tuple[tuple[int, int], list[str], bool]] = {
    "cnn": ((2, 1), [], False),
    "transformer": ((1, 1), ["data.options.size=200000"], True),
    "tabular": ((400, 100), [], True),
}
TRAINER = "python -m trainer"


def measure(bench: Bench, name: str) -> Section:
    """Measure all in turn, and compare round by round."""
    title = f"Training speed of examples/{name}"
    epochs, smaller, brings_data = EXAMPLES[name]
    folder = ROOT / "examples" / name
    file = folder / f"{name}.py"
    own_conf, experiment = ["--config-dir", str(folder)], [f"+experiment={name}"]
    own = ["data=module", f"data.module={file}"] if brings_data else []
    options = bench.merged([f"model.module={file}", *own, *(smaller if bench.quick else [])])
    where = {"folder": str(bench.scratch / name), "config_dir": str(folder)}
    load = partial(bench.worker, "parts.example", **where, overrides=experiment + options)
    facts = bench.once("the data", load)
    if "left_out" in facts:
        return Section(title, [line(TRAINER, "", "examples/s", [facts], "")])

    count, batch_size = facts["examples"], facts["job"]["batch_size"]
    steps, timed_steps = -(-count // batch_size), 50 if bench.quick else 400  # an epoch has `steps`
    timed = {
        **facts["job"],
        "warmup_steps": min(50, steps),
        "steps": max(timed_steps // steps * steps, min(timed_steps, steps)),
        "file": str(folder / "rivals.py"),
    }
    torch = partial(bench.worker, "torch_loop.example", **timed)
    n = epochs[bench.quick] * bench.times
    options += [f"train.epochs={n}", f"train.eval_every_epochs={n}"]
    results = bench.interleave(
        {
            TRAINER: partial(bench.train, *options, experiment=own_conf + experiment),
            SLICED: partial(torch, variant="sliced"),
            COMPILED: partial(torch, variant="compiled"),
            FLAX: partial(bench.worker, "flax_loop.example", **timed),
        }
    )

    def own_rate(result: Result) -> float:
        return float(result["summary"]["examples_per_second"])

    def unsaved_rate(result: Result) -> float:
        seconds = result["summary"]["seconds"]
        return float(result["summary"]["examples"]) / (seconds["step"] + seconds["data_wait"])

    def rate(result: Result, examples: float) -> float:
        return examples / float(result["seconds_per_step"])

    includes = "training time: stream, shuffling, metrics, TensorBoard, guard, checkpoints"
    trainer = line(TRAINER, includes, "examples/s", results[TRAINER], own_rate)
    includes = "by the trainer's own timers: all of that but the wait for checkpoints"
    unsaved = line(
        "the same without saving", includes, "examples/s", results[TRAINER], unsaved_rate
    )
    # PyTorch gets whole batches only; the last one of an epoch may be short.
    sizes = {SLICED: batch_size, COMPILED: batch_size, FLAX: count / steps}
    rivals = [
        line(rival, INCLUDES[rival], "examples/s", results[rival], partial(rate, examples=size))
        for rival, size in sizes.items()
    ]
    quotients = [ratios(f"trainer : {rival.name}", trainer, rival) for rival in rivals]
    remark = f"The same data, layers, batch size ({batch_size}) and AdamW in all."
    quotients.append(ratios(f"without saving : {FLAX}", unsaved, rivals[-1]))
    return Section(title, [trainer, unsaved, *rivals, *quotients], [remark])
