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
        """Of all rounds."""
        return statistics.median(self.values)

    @property
    def cells(self) -> tuple[str, str]:
        """The median, and the smallest to the largest value where there are several."""
        if not self.values:
            return "-", "left out"
        low, high = figure(min(self.values)), figure(max(self.values))
        return figure(self.median), f"{low} to {high}" if len(self.values) > 1 else ""


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
    """Make a line of the results of an interleaved job.

    Args:
        name: of the line.
        includes: of the line.
        unit: of the values, after scaling.
        results: one a round.
        value: a key of a result, or a function of it.
        scale: that values are multiplied with.
    """
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


def figure(value: float) -> str:
    """Write a figure with three significant digits, large ones with separators."""
    size = abs(value)
    if size >= 100 or (size >= 1 and value == int(value)):
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


def to_json(section: Section) -> Result:
    """Return a section as JSON, with median, min and max of each line that has values."""
    lines = []
    for one in section.lines:
        low_high = {"min": min(one.values), "max": max(one.values)} if one.values else {}
        median = {"median": one.median} if one.values else {}
        lines.append({**one._asdict(), **median, **low_high})
    return {**section._asdict(), "lines": lines}


def from_json(section: Result) -> Section:
    """Return the section that `to_json` was given."""
    lines = [Line(*(one[name] for name in Line._fields)) for one in section["lines"]]
    return Section(section["title"], lines, section["remarks"], section["facts"])


def show(section: Section, console: Console) -> None:
    """Print a section's table and remarks."""
    table = Table(title=section.title, title_justify="left", title_style="bold")
    table.add_column("what", overflow="fold")
    table.add_column("includes", overflow="fold", style="dim")
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("spread", justify="right", no_wrap=True)
    for one in section.lines:
        median, spread = one.cells
        table.add_row(one.name, one.includes, median, one.unit, spread)
    console.print(table)
    reasons = [f"left out: {one.name}: {one.left_out}" for one in section.lines if not one.values]
    for text in (*reasons, *section.remarks, ""):
        console.print(text, markup=False, highlight=False)


def markdown(section: Section) -> str:
    """Return a section as Markdown, ready for docs/benchmarks.md."""
    head = ("what", "includes", "median", "spread", "unit")
    rows = [(one.name, one.includes, *one.cells, one.unit) for one in section.lines]
    table = "\n".join("| " + " | ".join(row) + " |" for row in (head, *rows))
    table = table.replace("\n", "\n|---|---|---:|---:|---|\n", 1)
    reasons = [f"- {one.name}: {one.left_out}" for one in section.lines if not one.values]
    left_out = "\n".join(["Left out:", *reasons]) if reasons else ""
    parts = (f"## {section.title}", table, left_out, *section.remarks)
    return "\n\n".join(filter(None, parts)) + "\n"
