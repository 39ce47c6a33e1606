"""`python -m trainer sweep DIR`: how far a sweep is, as table, CSV and plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer import chart, sweep_folder
from trainer.commands import arguments as command_line
from trainer.commands.printing import printable, show, table
from trainer.errors import EXIT_COMPLETED
from trainer.preemption import StopRequest
from trainer.ranking import Result, groups, printed, printed_groups, rank
from trainer.terminal import Terminal

DESCRIPTION = """\
Shows the members of a sweep ranked by test accuracy, and the mean and spread over the seeds; writes
the same to sweep.csv and draws sweep.png. Also while the sweep or the tasks of its job array run.
"""
EPILOG = """\
status:
  completed    all its epochs are done: only these have a rank
  running      a process is at it now; its figures are those of its last evaluation
  preempted    it was asked to stop and has saved
  interrupted  it was killed, or its machine was lost
  waiting      it has not begun to train
  failed       it ended with an error, which is told; output.log in its folder has more

exit codes:
  0   shown, however the members stand
  78  there is no sweep in DIR, or an option is wrong

examples:
  python -m trainer sweep runs/mlp/sweep-0123456789
  python -m trainer sweep runs/mlp/sweep-0123456789 --json | jq '.members[0]'
"""
_WIDEST = 60  # characters of an error in the table; sweep.csv has all of it


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Show a sweep; return exit code 0.

    Raises:
        ConfigError: an option is wrong, or there is no sweep.
    """
    parser = command_line.parser("sweep", DESCRIPTION, EPILOG)
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder of the sweep")
    parser.add_argument("--json", action="store_true", help="print JSON, write nothing")
    args = command_line.parse(parser, arguments)
    if args is None:
        return EXIT_COMPLETED
    folder = args.folder.expanduser().absolute()
    if args.json:
        found = sweep_folder.results(folder)
        told = {
            "folder": str(folder),
            "members": [result._asdict() for result in rank(found)],
            "groups": [group._asdict() for group in groups(found)],
        }
        show(json.dumps(told, indent=2))
    else:
        show_results(folder, Terminal().warn)
    return EXIT_COMPLETED


def show_results(folder: Path, warn: Callable[[str], object]) -> None:
    """Print the tables of a sweep, write sweep.csv and draw sweep.png.

    Args:
        folder: of the sweep.
        warn: is told in one line each what could not be written.

    Raises:
        ConfigError: there is no sweep.
    """
    found = sweep_folder.results(folder)
    show(tables(found))
    written = []
    try:
        sweep_folder.write_table(folder, found)
        written.append(folder / sweep_folder.TABLE)
        if chart.draw(folder / sweep_folder.PLOT, found):
            written.append(folder / sweep_folder.PLOT)
    except OSError as error:
        warn(f"{folder} cannot be written: {error.strerror}")
    except ImportError:
        warn("no plot: matplotlib is not installed (pip install 'trainer[plots]')")
    for path in written:
        show(str(path))


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
