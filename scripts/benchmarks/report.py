"""What a person reads: a table a section, and how a figure is written."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from benchmarks.lines import Line, Section


def figure(value: float) -> str:
    """Write a figure with three significant digits, large ones with separators."""
    size = abs(value)
    if size >= 100 or (size >= 1 and value == int(value)):
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


def spread(line: Line) -> str:
    """Write the least and the greatest value; nothing for a single one."""
    if len(line.values) < 2:
        return ""
    return f"{figure(min(line.values))} to {figure(max(line.values))}"


def show(section: Section, console: Console) -> None:
    """Print a section's table and remarks."""
    table = Table(title=section.title, title_justify="left", title_style="bold")
    table.add_column("what", overflow="fold")
    table.add_column("includes", overflow="fold", style="dim")
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("spread", justify="right", no_wrap=True)
    for line in section.lines:
        if line.values:
            cells = (figure(line.median), line.unit, spread(line))
        else:
            cells = ("-", line.unit, "left out")
        table.add_row(line.name, line.includes, *cells)
    console.print(table)
    for line in section.lines:
        if not line.values:
            console.print(f"left out: {line.name}: {line.left_out}", markup=False, highlight=False)
    for remark in section.remarks:
        console.print(remark, markup=False, highlight=False)
    console.print()


def markdown(section: Section) -> str:
    """Return a section as Markdown, ready for docs/benchmarks.md."""
    rows = [
        f"## {section.title}",
        "",
        "| what | includes | median | spread | unit |",
        "|---|---|---:|---:|---|",
    ]
    for line in section.lines:
        cells = (figure(line.median), spread(line)) if line.values else ("-", "left out")
        rows.append("| " + " | ".join((line.name, line.includes, *cells, line.unit)) + " |")
    left_out = [f"- {line.name}: {line.left_out}" for line in section.lines if not line.values]
    rows += ["", "Left out:", *left_out] if left_out else []
    return "\n".join([*rows, *(f"\n{remark}" for remark in section.remarks), ""])
