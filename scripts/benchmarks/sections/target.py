"""From the command to 98 % and to 98.5 % of the validation images."""

from functools import partial

from benchmarks.bench import Bench
from benchmarks.figures import Result, Section, line

TITLE = "From the command to an accuracy, warm compilation cache, batch 64"
# The schedule ends with the epochs, so each target has the number of epochs that suits it.
TARGETS = {0.98: 2, 0.985: 10}


def measure(bench: Bench) -> Section:
    """Train with another seed each round; the clock stops at the evaluation that shows it."""
    seeds = {target: iter(range(bench.rounds + 1)) for target in TARGETS}

    def reach(target: float, epochs: int) -> Result:
        seed = next(seeds[target])
        result = bench.train(f"train.epochs={epochs}", f"run.seed={seed}")
        evaluations = result["evaluations"]
        reached = [point["time"] for point in evaluations if point["accuracy"] >= target]
        if not reached:
            best = max(point["accuracy"] for point in evaluations)
            return {"missed": f"seed {seed}: {best:.2%}"}
        return {"seconds": reached[0] - result["began"]}

    targets = {0.98: TARGETS[0.98]} if bench.quick else TARGETS
    bench.warm_up()
    results = bench.interleave({f"{t:.1%}": partial(reach, t, n) for t, n in targets.items()})
    lines, remarks = [], []
    for epochs, (name, rounds) in zip(targets.values(), results.items(), strict=True):
        missed = [result["missed"] for result in rounds if "missed" in result]
        reached = [result for result in rounds if "missed" not in result]
        includes = f"everything; train.epochs={epochs}, another seed each round"
        one = line(f"command to {name}", includes, "s", reached, "seconds")
        if missed:
            remarks.append(f"{name} was not reached in {epochs} epochs with {', '.join(missed)}.")
            one = one if one.values else one._replace(left_out="not reached")
        lines.append(one)
    return Section(TITLE, lines, remarks)
