"""The figures of a section, one value a round; as JSON, as a table on the terminal, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

Result = dict[str, Any]  # JSON; {"left_out": reason} where a measurement was not possible


class Line(NamedTuple):
    """One line of a table."""

    name: str  # what was measured
    includes: str  # what the figure contains
    unit: str
    values: list[float]  # one a round
    left_out: str = ""  # why there are no values

    @property
    def median(self) -> float:
        return statistics.median(self.values)


class Section(NamedTuple):
    """All figures of a section."""

    title: str
    lines: list[Line]
    remarks: Sequence[str] = ()  # sentences that follow the table
    facts: Mapping[str, Any] = {}  # JSON: for the plot and for the model of scaling


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
    left_out = above.left_out or below.left_out
    return Line(name, "round by round", "x", [a / b for a, b in both], left_out)


def to_json(section: Section) -> Result:
    """Return a section as JSON, with median, min and max of each line that has values."""
    lines = []
    for one in section.lines:
        lines.append(one._asdict())
        if one.values:
            lines[-1] |= {"median": one.median, "min": min(one.values), "max": max(one.values)}
    return section._asdict() | {"lines": lines}


def figure(value: float) -> str:
    """Write a figure with three significant digits, large ones with separators."""
    size = abs(value)
    if size >= 100 or (size >= 1 and value == int(value)):
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


def cells(line: Result) -> tuple[str, str, str]:
    """Return the median, the unit and the spread of a line, as JSON."""
    if not line["values"]:
        return "-", line["unit"], "left out"
    spread = f"{figure(line['min'])} to {figure(line['max'])}" if len(line["values"]) > 1 else ""
    return figure(line["median"]), line["unit"], spread


def show(section: Result, console: Console) -> None:
    """Print the table and remarks of a section, as JSON."""
    table = Table(title=section["title"], title_justify="left", title_style="bold")
    table.add_column("what", overflow="fold")
    table.add_column("includes", overflow="fold", style="dim")
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("spread", justify="right", no_wrap=True)
    for one in section["lines"]:
        table.add_row(one["name"], one["includes"], *cells(one))
    console.print(table)
    for text in (*(f"left out: {reason}" for reason in left_out(section)), *section["remarks"], ""):
        console.print(text, markup=False, highlight=False)


def markdown(section: Result) -> str:
    """Return a section, as JSON, as Markdown, ready for docs/benchmarks.md."""
    rows = [("what", "includes", "median", "unit", "spread"), ("---", "---", "---:", "---", "---:")]
    rows += [(one["name"], one["includes"], *cells(one)) for one in section["lines"]]
    parts = [f"## {section['title']}", "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    if reasons := left_out(section):
        parts.append("\n".join(["Left out:", *(f"- {reason}" for reason in reasons)]))
    return "\n\n".join([*parts, *section["remarks"]]) + "\n"


def left_out(section: Result) -> list[str]:
    """Return the lines of a section, as JSON, that have no values, with the reasons."""
    return [f"{one['name']}: {one['left_out']}" for one in section["lines"] if not one["values"]]
