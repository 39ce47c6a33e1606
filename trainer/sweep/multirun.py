"""`python -m trainer -m ...`: trains every combination of values, goes on where it was ended."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from trainer.commands import arguments as command_line
from trainer.config.compose import compose_each
from trainer.job.errors import EXIT_COMPLETED, ConfigError
from trainer.job.signals import StopRequest
from trainer.job.stdout import show
from trainer.sweep import plan, unchanged
from trainer.sweep.launcher import Conductor
from trainer.tracking.terminal import Terminal

DESCRIPTION = """\
Trains every combination of the values given, one after the other, each in a folder of its own below
the sweep's. The same command again goes on: what is finished stays as it is, what is half done is
resumed, what has failed is tried again. At the end it prints the ranked table, and the mean and the
spread over the seeds, and writes them to sweep.csv and sweep.png.
"""
EPILOG = """\
OPTION=A,B,C        tries these values; so do range(0,5), choice(a,b) and glob(*)
run.name=NAME       the sweep lies in <run.root>/<experiment>/NAME (default: sweep-DIGEST, a digest
                    of the options). The same name takes more values of the same options later
run.dir=DIR         the folder of the sweep itself

exit codes:
  0   all members are completed
  74  the folder of the sweep or the output cannot be written
  75  asked to stop: the member at work has saved, the same command goes on
  78  a member has wrong options: none is trained; or another job is at this sweep; or finished
      members were trained with another configuration, as conf/ has changed since
  else the code of the members that failed, 70 if they failed with several; the others are done

examples:
  python -m trainer -m +experiment=mlp optim.lr=0.02,0.05,0.1 run.seed=0,1,2
  python -m trainer -m --members +experiment=mlp optim.lr=0.02,0.05     list, train nothing
  python -m trainer -m --member 1 +experiment=mlp optim.lr=0.02,0.05    one task of a job array
  python -m trainer sweep runs/mlp/sweep-0123456789                     how far it is
"""


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Train the members of a sweep as the arguments say; return the exit code.

    Raises:
        ConfigError: something is wrong with the command line, or another job is at the sweep.
        Preempted: asked to stop; the member at work has saved.
    """
    args = command_line.parse(_parser(), arguments, intermixed=True)
    if args is None:
        return EXIT_COMPLETED
    if any(text.startswith("hydra/sweeper=") for text in args.overrides):
        if args.members or args.member is not None:
            raise ConfigError("hydra/sweeper: what a trial is depends on the results before it")
        from trainer.sweep import search

        return search.main(args.overrides, stop)
    planned = plan.make(args.overrides)
    if args.members:
        show("\n".join(f"{i}  {member.name}" for i, member in enumerate(planned.members)))
        return EXIT_COMPLETED
    if args.member is not None:
        from trainer.sweep import array

        return array.main(planned, args.member, stop)
    jobs = compose_each([plan.arguments(planned.folder, member) for member in planned.members])
    plan.refuse_several_processes(jobs[0])
    unchanged.check(planned.folder, planned.fixed)
    terminal = Terminal(quiet=jobs[0].config.run.quiet)
    members = planned.members
    with Conductor(planned.folder, planned.fixed, len(members), terminal, stop) as conductor:
        conductor.add(members)
        for member in members:
            conductor.train(member)
    return conductor.code


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser("-m", DESCRIPTION, EPILOG)
    parser.add_argument("-m", "--multirun", action="store_true", help="train a sweep")
    parser.add_argument(
        "--members", action="store_true", help="print the members, numbered from 0; train nothing"
    )
    parser.add_argument(
        "--member",
        metavar="I",
        type=int,
        help="train only member I, in this process: for a task of a job array, which may have "
        "several processes and runs beside the tasks of the other members",
    )
    parser.add_argument(
        "overrides",
        metavar="OPTION=VALUE",
        nargs="*",
        help="as `python -m trainer --help` lists them",
    )
    return parser
