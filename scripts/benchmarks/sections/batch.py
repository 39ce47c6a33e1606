"""Training speed by batch size and by K, the optimizer steps in a dispatch."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import Bench, Result
from benchmarks.lines import Section, line
from benchmarks.sections import rivals

TITLE = "Training speed by batch size and by steps a dispatch (K)"


def measure(bench: Bench) -> Section:
    """Measure both, in turn with a rival."""
    sizes = [64, 1024] if bench.quick else [64, 256, 1024, 4096]
    whole = rivals.steps_per_epoch(bench, 64)
    ks = [1] if bench.quick else [1, 8, 32, 128, whole]
    epochs = (1 if bench.quick else 2) * bench.times

    def train(*overrides: str) -> Result:
        late = f"train.eval_every_epochs={epochs}"
        return bench.train(f"train.epochs={epochs}", late, *overrides)

    jobs = {}
    for size in sizes:
        jobs[f"trainer, batch {size}"] = partial(train, f"train.global_batch_size={size}")
        jobs[f"{rivals.SLICED}, batch {size}"] = rivals.jobs(bench, size)[rivals.SLICED]
    for k in ks:
        jobs[f"trainer, K={k}, batch 64"] = partial(train, f"train.steps_per_dispatch={k}")
    found = bench.interleave(jobs, bench.fewer_rounds)

    lines, by_batch, by_k = [], {}, {}
    for name, results in found.items():
        if name.startswith("trainer"):
            includes = "all of the trainer but evaluation; K as configured"
            includes = includes.split(";")[0] if "K=" in name else includes
            one = line(name, includes, "images/s", results, "summary", "examples_per_second")
        else:
            size = int(name.rsplit(" ", 1)[1])
            rates = [
                r if "left_out" in r else {"rate": size / r["seconds_per_step"]} for r in results
            ]
            one = line(name, "the loop alone", "images/s", rates, "rate")
        lines.append(one)
        if not one.values:
            continue
        if "K=" in name:
            by_k[name.split("=")[1].split(",")[0]] = one.median
        else:
            what, size_text = name.rsplit(", batch ", 1)
            by_batch.setdefault(what, {})[size_text] = one.median
    return Section(TITLE, lines, [], {"by_batch": by_batch, "by_k": by_k})
