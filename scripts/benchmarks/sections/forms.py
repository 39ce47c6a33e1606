"""The speed of the program in other forms and with other options of the compiler, batch 64."""

from benchmarks.bench import FAILED, Bench
from benchmarks.figures import Line, Section, line, ratios
from benchmarks.sections import rivals
from benchmarks.workers.forms import AS_IT_IS

TITLE = "The program alone in other forms, batch 64"
ALL = "all forms"


def measure(bench: Bench) -> Section:
    """Time them in one process, in turn, round after round."""
    results = bench.interleave({ALL: rivals.program(bench, "forms.measure")}, bench.fewer_rounds)
    good = [result for result in results[ALL] if "left_out" not in result]
    if not good:
        return Section(TITLE, [line(ALL, "", "us a step", results[ALL], "")])
    includes = f"{rivals.OWN_K} steps a dispatch, data on the device already"
    lines = [
        Line(name, includes, "us a step", [1e6 * r["seconds_per_step"][name] for r in good])
        for name in good[0]["seconds_per_step"]
    ]
    usual = next(one for one in lines if one.name == AS_IT_IS)
    lines += [ratios(f"{one.name} : {AS_IT_IS}", one, usual) for one in lines if one is not usual]
    lines += [
        Line(name, "", "us a step", [], f"{FAILED}{reason}")
        for name, reason in good[0]["refused"].items()
    ]
    return Section(TITLE, lines)
