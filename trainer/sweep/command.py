"""`python -m trainer sweep DIR`: how far a sweep is, as table, CSV and plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.commands import arguments as command_line
from trainer.job.directory import expanded
from trainer.job.errors import EXIT_COMPLETED
from trainer.job.files import to_json
from trainer.job.signals import StopRequest
from trainer.job.stdout import show
from trainer.sweep import folder as sweep_folder
from trainer.sweep.ranking import groups, rank
from trainer.sweep.results import show_results
from trainer.tracking.terminal import Terminal

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
  failed       it ended with an error, which is shown; output.log in its folder has more

exit codes:
  0   shown, however the members stand
  74  the output cannot be written
  78  there is no sweep in DIR, or an option is wrong

examples:
  python -m trainer sweep runs/mlp/sweep-0123456789
  python -m trainer sweep runs/mlp/sweep-0123456789 --json | jq '.members[0]'
"""


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
    folder = expanded(args.folder, "DIR").absolute()
    if args.json:
        found = sweep_folder.results(folder)
        told = {
            "folder": str(folder),
            "members": [result._asdict() for result in rank(found)],
            "groups": [group._asdict() for group in groups(found)],
        }
        show(to_json(told, indent=2))
    else:
        show_results(folder, Terminal().warn)
    return EXIT_COMPLETED
