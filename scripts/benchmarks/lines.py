"""What a section found: lines of figures, one value a round, and the constants for the model."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


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


class Section(NamedTuple):
    """All that a section found."""

    title: str
    lines: list[Line]
    remarks: list[str]  # sentences that follow the table
    facts: dict[str, Any]  # JSON: for the plot and for the model of scaling


def to_json(section: Section) -> dict[str, Any]:
    """Return a section as JSON, medians and spread spelt out."""
    lines = [
        {
            **line._asdict(),
            **(
                {"median": line.median, "min": min(line.values), "max": max(line.values)}
                if line.values
                else {}
            ),
        }
        for line in section.lines
    ]
    return {**section._asdict(), "lines": lines}


def from_json(found: Mapping[str, Any]) -> Section:
    """Return the section that to_json() was given."""
    lines = [Line(*(line[name] for name in Line._fields)) for line in found["lines"]]
    return Section(found["title"], lines, found["remarks"], found["facts"])


def line(
    name: str,
    includes: str,
    unit: str,
    results: Sequence[Mapping[str, Any]],
    *path: str,
    scale: float = 1.0,
) -> Line:
    """Make a line of the results of an interleaved job: the value at `path` in each, scaled."""
    values, left_out = [], ""
    for result in results:
        if "left_out" in result:
            left_out = result["left_out"]
            continue
        value: Any = result
        for key in path:
            value = value[key]
        values.append(float(value) * scale)
    return Line(name, includes, unit, values, "" if values else left_out)


def ratios(name: str, above: Line, below: Line) -> Line:
    """Divide two lines round by round: what was measured in turn is compared with its neighbour."""
    pairs = zip(above.values, below.values, strict=False)
    left_out = above.left_out or below.left_out
    return Line(name, "round by round", "x", [a / b for a, b in pairs], left_out)
