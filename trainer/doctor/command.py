"""`python -m trainer doctor`: looks at everything a job needs, before the job is submitted."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from functools import partial

from rich.console import Console
from rich.text import Text

from trainer.commands import arguments as command_line
from trainer.config.compose import compose
from trainer.doctor.finding import Finding
from trainer.job.errors import EXIT_COMPLETED, ConfigError
from trainer.job.signals import StopRequest
from trainer.job.stdout import claim_stdout, show

DESCRIPTION = """\
Looks at everything a training job needs: versions, processes, devices, names, the run directory,
the data, the network between the devices, one compiled step. Alone, or in all processes of an
allocation at once, started just as the job will be; process 0 prints the table.
"""
EPILOG = """\
exit codes:
  0   all is well, or there are only warnings
  69  something needed is missing or does not answer
  74  the output cannot be written
  78  a configuration is wrong

examples:
  python -m trainer doctor +experiment=mlp
  python -m trainer doctor --download +experiment=mlp     fetch MNIST first, if it is missing
  srun --nodes=2 python -m trainer doctor +experiment=mlp
"""


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Check what the arguments say, print a table or JSON, and return the exit code.

    Raises:
        ConfigError: an option is wrong.
    """
    args = command_line.parse(_parser(), arguments, overrides=True)
    if args is None:
        return EXIT_COMPLETED
    jobs = compose(args.overrides)
    if len(jobs) != 1:
        raise ConfigError("doctor looks at one job: leave out lists of values such as a=1,2")
    config = jobs[0].config
    data = dataclasses.replace(config.data, download=config.data.download and args.download)
    downloadable = config.data.download and not args.download
    from trainer.doctor.examination import Examination  # and jax, once the configuration is good

    claim_stdout()
    tell = partial(_show, as_json=args.json)
    return Examination(dataclasses.replace(config, data=data), downloadable, stop, tell).run()


def _parser() -> argparse.ArgumentParser:
    usage = "[options] [+experiment=NAME] [OPTION=VALUE ...]"
    parser = command_line.parser("doctor", DESCRIPTION, EPILOG, usage)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--download", action="store_true", help="download data that is missing")
    command_line.add_overrides(parser)
    return parser


def _show(findings: Sequence[Finding], as_json: bool) -> None:
    if as_json:
        show(json.dumps([found._asdict() for found in findings], indent=2))
    else:
        show(_table(findings))


def _table(findings: Sequence[Finding]) -> str:
    colors = {"ok": "green", "warning": "yellow", "failure": "bold red"}
    console = Console(highlight=False, soft_wrap=True)
    with console.capture() as captured:
        for found in findings:
            line = Text(f"{found.level:<8}", colors[found.level])
            told = found.told.replace("\n", f"\n{'':28}")
            console.print(line, Text(f"{found.check:<18} {told}"))
            if found.fix:
                fix = found.fix.replace("\n", f"\n{'':33}")
                console.print(Text(f"{'':28}fix: {fix}"))
    return captured.get().rstrip("\n")
