"""The figures of a section, one value a round: as JSON, as a table in Markdown, and in a plot."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PANELS = {  # of the plot; section: the unit of its lines to draw, and a title
    "rivals": ("s an epoch", "Seconds an epoch, batch 64 (less is better)"),
    "batch": ("images/s", "Images a second by batch size and K"),
    "data": ("M examples/s", "The data path alone, million examples a second"),
    "scaling": ("ms a step", "Milliseconds a step: measured and predicted"),
}

Result = dict[str, Any]  # JSON; {"left_out": reason} where a measurement was not possible


class Line(NamedTuple):
    """One line of a table."""

    name: str  # what was measured
    includes: str  # what the figure contains
    unit: str
    values: list[float]  # one a round
    left_out: str = ""  # why there are no values


class Section(NamedTuple):
    """All figures of a section."""

    title: str
    lines: list[Line]
    remarks: Sequence[str] = ()  # sentences that follow the table


def line(
    name: str,
    includes: str,
    unit: str,
    results: Sequence[Result],
    value: str | Callable[[Result], float],
    scale: float = 1.0,
) -> Line:
    """Make a line of the results of an interleaved job: `value` is a key or a function of each."""
    read = value if callable(value) else lambda result: float(result[value])
    values = [scale * read(result) for result in results if "left_out" not in result]
    reasons = [result["left_out"] for result in results if "left_out" in result]
    return Line(name, includes, unit, values, "" if values or not reasons else reasons[-1])


def pairs(one: Sequence[Result], other: Sequence[Result]) -> Iterator[tuple[Result, Result]]:
    """Yield the results of two jobs round by round, but for rounds that one of them left out."""
    for both in zip(one, other, strict=False):
        if not any("left_out" in result for result in both):
            yield both


def ratios(name: str, above: Line, below: Line) -> Line:
    """Divide two lines round by round: neighbours in time ran on an equally busy machine."""
    both = zip(above.values, below.values, strict=False)
    return Line(name, "round by round", "x", [a / b for a, b in both])


def to_json(section: Section) -> Result:
    """Return a section as JSON, with median, min and max of each line that has values."""
    lines = []
    for one in section.lines:
        values = one.values
        lines.append(one._asdict())
        if values:
            median = statistics.median(values)
            lines[-1] |= {"median": median, "min": min(values), "max": max(values)}
    return section._asdict() | {"lines": lines}


def figure(value: float) -> str:
    """Write a figure with three significant digits, large ones with separators."""
    size = abs(value)
    if size >= 100 or (size >= 1 and value == int(value)):
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


def cells(line: Result) -> list[str]:
    """Return a line, as JSON, as a row of a table."""
    median, spread = "-", "left out"
    if line["values"]:
        median = figure(line["median"])
        spread = f"{figure(line['min'])} to {figure(line['max'])}" if line["values"][1:] else ""
    return [line["name"], line["includes"], median, line["unit"], spread]


def markdown(section: Result) -> str:
    """Return a section, as JSON, as Markdown, ready for docs/benchmarks.md."""
    rows = [["what", "includes", "median", "unit", "spread"], ["---", "---", "---:", "---", "---:"]]
    rows += [cells(one) for one in section["lines"]]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    reasons = [f"- {one['name']}: {one['left_out']}" for one in section["lines"] if one["left_out"]]
    left_out = ["\n".join(["Left out:", "", *reasons])] if reasons else []
    return "\n\n".join([f"## {section['title']}", table, *left_out, *section["remarks"]]) + "\n"


def draw(sections: Mapping[str, Result], path: Path) -> str:
    """Write the plot where there is something to draw; return words for the closing line."""
    names = [name for name in PANELS if name in sections]
    if not names:
        return ""
    from matplotlib.figure import Figure  # writes to its cache folder: not for a mistyped option

    figure = Figure(figsize=(8, 3.2 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), squeeze=False)
    for axis, name in zip(axes[:, 0], names, strict=True):
        unit, title = PANELS[name]
        lines = [one for one in sections[name]["lines"] if one["values"] and one["unit"] == unit]
        lines.reverse()  # the first one on top
        medians = [line["median"] for line in lines]
        spread = [[abs(line[end] - line["median"]) for line in lines] for end in ("min", "max")]
        names_of_lines = [line["name"] for line in lines]
        axis.barh(names_of_lines, medians, xerr=spread, capsize=3, color="#4878a8")
        axis.set_title(title, loc="left", fontsize=10)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    return f", {path}"
