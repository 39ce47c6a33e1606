"""Training speed of an example: the trainer beside PyTorch and a plain Flax + Optax loop."""

from functools import partial

from benchmarks.bench import ROOT, Bench
from benchmarks.figures import Result, Section, line, ratios
from benchmarks.sections.rivals import COMPILED, FLAX, INCLUDES, SLICED

# Epochs to train, and with --quick; the example's own data, whatever data the command line names;
# further options with --quick.
EXAMPLES: dict[str, tuple[tuple[int, int], list[str], list[str]]] = {
    "cnn": ((2, 1), [], []),
    "transformer": ((1, 1), ["data=module"], ["data.options.size=200000"]),
    "tabular": ((4000, 400), ["data=module"], []),
    "flax_module": ((40, 10), ["data=mnist_5k"], []),
}
TRAINER = "python -m trainer"


def measure(bench: Bench, name: str) -> Section:
    """Measure all in turn, and compare round by round."""
    title = f"Training speed of examples/{name}"
    epochs, own_data, smaller = EXAMPLES[name]
    folder, experiment = ROOT / "examples" / name, f"+experiment={name}"
    options = bench.merged([*own_data, *(smaller if bench.quick else [])])
    where = {"folder": str(bench.scratch / name), "config_dir": str(folder)}
    load = partial(bench.worker, "parts.example", **where, overrides=[experiment, *options])
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
    torch = partial(bench.worker, "torch_loop.measure", **timed)
    n = epochs[bench.quick] * bench.times
    options += [f"train.epochs={n}", f"train.eval_every_epochs={n}"]
    job = ["--config-dir", str(folder), experiment]
    results = bench.interleave(
        {
            TRAINER: partial(bench.train, *options, experiment=job),
            SLICED: partial(torch, variant="sliced"),
            COMPILED: partial(torch, variant="compiled"),
            FLAX: partial(bench.worker, "flax_loop.measure", **timed),
        }
    )

    def rate(result: Result, examples: float) -> float:
        return examples / float(result["seconds_per_step"])

    includes = "training time: stream, shuffling, metrics, TensorBoard, guard, checkpoints"
    trainer = line(TRAINER, includes, "examples/s", results[TRAINER], "examples_per_second")
    # PyTorch gets whole batches only; the last one of an epoch may be short.
    sizes = {SLICED: batch_size, COMPILED: batch_size, FLAX: count / steps}
    rivals = [
        line(rival, INCLUDES[rival], "examples/s", results[rival], partial(rate, examples=size))
        for rival, size in sizes.items()
    ]
    quotients = [ratios(f"trainer : {rival.name}", trainer, rival) for rival in rivals]
    remark = f"The same data, layers, batch size ({batch_size}) and AdamW in all."
    return Section(title, [trainer, *rivals, *quotients], [remark])
