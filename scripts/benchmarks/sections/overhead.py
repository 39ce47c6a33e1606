"""What logging, evaluating and saving cost, and how much of the loop is not the program."""

from functools import partial

from benchmarks.bench import Bench
from benchmarks.figures import Line, Result, Section, line, pairs
from benchmarks.scaling import Net
from benchmarks.sections import rivals

TITLE = "The cost of logging, evaluating and saving every epoch, batch 64"
ALL, NO_LOG = "everything on", "no logging"
PROFILED = "profiled, no evaluation"
IDLE = "the device idle between programs"


def measure(bench: Bench) -> Section:
    """Compare the loop's own timers, and runs with and without, in turn."""
    # As many as the experiment has: the loop waits for the last save.
    epochs = (2 if bench.quick else 10) * bench.times
    # The same K in all, which `auto` would choose again each time.
    run = partial(rivals.train, bench, epochs, f"train.steps_per_dispatch={rivals.OWN_K}")
    results = bench.interleave(
        {
            ALL: run,
            NO_LOG: partial(run, "train.log_every_steps=1000000"),
            PROFILED: partial(_profiled, bench),
            rivals.PROGRAM: rivals.program(bench),
        }
    )
    counts, net = bench.machine["dataset"], Net(tuple(bench.machine["sizes"]))
    evaluated = counts.get("validation_examples", 0) + counts["test_examples"] / epochs
    ideal = 2 * evaluated * net.products / net.flops(counts["train_examples"])

    def share(phase: str, name: str, includes: str) -> Line:
        def value(result: Result) -> float:
            return result["summary"]["seconds"][phase] / result["summary"]["train_seconds"]

        return line(name, includes, "% of training", results[ALL], value, scale=100)

    unlogged = [
        100 * (a["everything_seconds"] / b["everything_seconds"] - 1)
        for a, b in pairs(results[ALL], results[NO_LOG])
    ]
    rest = [
        100 * (1 - p["seconds_per_step"] * r["summary"]["steps"] / r["summary"]["train_seconds"])
        for r, p in pairs(results[ALL], results[rivals.PROGRAM])
    ]
    timers = "seconds that the loop waited, by its timers"
    evaluating = "evaluating every epoch, and the test split once"
    noisy = "wall clock with and without, in turn: noisy"
    loop = "1 - (steps x the program alone) / training time: waiting, saving, other programs"
    profiled = "by a profile of the steps of an epoch, a save and an end of an epoch, no evaluation"
    lines = [
        share("save", "saving every epoch", timers),
        share("evaluate", evaluating, f"its own arithmetic is {ideal:.1%}"),
        Line("logging every 100 steps, by difference", noisy, "% of an epoch", unlogged),
        share("data_wait", "waiting for data", timers),
        Line("not the program", loop, "% of training", rest),
        line(IDLE, profiled, "% of that time", results[PROFILED], "share", scale=100),
    ]
    return Section(TITLE, lines)


def _profiled(bench: Bench) -> Result:
    """Train two epochs and profile from the middle of the first to that of the second."""
    if not bench.on_cpu:
        return {"left_out": "a profile holds a GPU up after every turn of a loop in a CUDA graph"}
    middle = rivals.steps_per_epoch(bench, 64) // rivals.OWN_K // 2 * rivals.OWN_K
    last = middle + rivals.steps_per_epoch(bench, 64)
    return bench.train(
        "train.epochs=2",
        "train.eval_every_epochs=2",
        f"train.steps_per_dispatch={rivals.OWN_K}",
        f"train.profile_steps=[{middle + 1},{last}]",
        read=lambda directory: bench.worker("parts.idle", directory=str(directory)),
    )
