"""What each option of the compiler and each form of the program gives, batch 64."""

from __future__ import annotations

from benchmarks.bench import FAILED, Bench
from benchmarks.lines import Line, Section, ratios
from benchmarks.sections import rivals
from benchmarks.workers.forms import AS_IT_IS

TITLE = "The program alone in other forms, batch 64"
ALL = "all forms"


def measure(bench: Bench) -> Section:
    """Time them in one process, in turn, round after round."""
    results = bench.interleave({ALL: rivals.program(bench, "forms")}, bench.fewer_rounds)[ALL]
    good = [result for result in results if "left_out" not in result]
    if not good:
        return Section(TITLE, [Line(ALL, "", "us a step", [], results[0]["left_out"])], [], {})
    lines = [
        Line(
            name,
            f"{rivals.OWN_K} steps a dispatch, data on the device already",
            "us a step",
            [1e6 * result["seconds_per_step"][name] for result in good],
        )
        for name in good[0]["seconds_per_step"]
    ]
    usual = next(line for line in lines if line.name == AS_IT_IS)
    lines += [ratios(f"{one.name} : {AS_IT_IS}", one, usual) for one in lines if one is not usual]
    lines += [
        Line(name, "", "us a step", [], f"{FAILED}{reason}")
        for name, reason in good[0]["refused"].items()
    ]
    return Section(TITLE, lines, [], {})
