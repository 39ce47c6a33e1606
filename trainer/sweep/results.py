"""The tables of a sweep for people, and the files that have the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.job.files import write_bytes
from trainer.job.stdout import printable, show, table
from trainer.sweep import folder as sweep_folder
from trainer.sweep import plot
from trainer.sweep.ranking import Result, printed, printed_groups

_WIDEST = 60  # characters of an error in the table; sweep.csv has all of it


def show_results(folder: Path, warn: Callable[[str], object]) -> None:
    """Print the tables of a sweep, write sweep.csv and draw sweep.png.

    Args:
        folder: of the sweep.
        warn: is told in one line each what could not be written.

    Raises:
        ConfigError: there is no sweep.
    """
    show(tables(sweep_folder.results(folder)))
    written = []
    try:
        with sweep_folder.turn(folder):
            found = sweep_folder.write_table(folder)
        written.append(folder / sweep_folder.TABLE)
        if _draw(folder, found):
            written.append(folder / sweep_folder.PLOT)
    except OSError as error:
        warn(f"{folder} cannot be written: {error.strerror}")
    for path in written:
        show(str(path))


def _draw(folder: Path, found: Sequence[Result]) -> bool:
    """Bring sweep.png up to date; return False where no member is completed.

    Drawing takes seconds, for which nobody else waits. What others have brought to an end meanwhile
    is drawn as well, or this plot would replace a newer one of theirs.
    """
    while picture := plot.draw(found):
        with sweep_folder.turn(folder):
            now = sweep_folder.results(folder)
            if _completed(now) == _completed(found):
                write_bytes(folder / sweep_folder.PLOT, picture)
                return True
        found = now
    return False


def _completed(results: Sequence[Result]) -> list[Result]:
    return [result for result in results if result.status == "completed"]


def tables(found: Sequence[Result]) -> str:
    """Return the ranked table, and the one over the seeds if these were swept."""
    rows = [[_cut(printable(cell)) for cell in row] for row in printed(found)]
    status = rows[0].index("status")
    lines = list(table(rows, {*range(1, status + 1), len(rows[0]) - 1}))
    over_seeds = printed_groups(found)
    if over_seeds:
        swept = over_seeds[0].index("seeds")
        lines += ["", *table([[printable(c) for c in row] for row in over_seeds], range(swept))]
    return "\n".join(lines)


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."
