"""`python -m trainer doctor`: check everything a job needs, before the job is submitted."""

import argparse
import json
from collections.abc import Sequence
from functools import partial

from rich.console import Console
from rich.text import Text

from trainer.commands import arguments as command_line
from trainer.config.compose import compose
from trainer.doctor.finding import Finding
from trainer.job.errors import ConfigError
from trainer.job.signals import StopRequest
from trainer.job.stdout import claim_stdout, show

DESCRIPTION = """\
Check everything a training job needs: versions, processes, devices, host names, the run directory,
the data, the network between the devices, one compiled step. Run it in one process, or in all
processes of an allocation, started as the job will be; process 0 prints the table.
"""
EPILOG = """\
exit codes:
  0   all checks succeed, or there are only warnings
  69  something needed is missing or does not answer
  74  the output cannot be written
  78  a configuration is wrong

examples:
  python -m trainer doctor +experiment=mlp
  python -m trainer doctor --download +experiment=mlp     download missing data first
  srun --nodes=2 python -m trainer doctor +experiment=mlp
"""
COLORS = {"ok": "green", "warning": "yellow", "failure": "bold red"}


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Do the checks, print a table or JSON, and return the exit code.

    Raises:
        ConfigError: an option is wrong.
    """
    args = command_line.parse(_parser(), arguments, overrides=True)
    jobs = compose(args.overrides)
    if len(jobs) != 1:
        raise ConfigError("doctor checks one job: leave out lists of values such as a=1,2")
    from trainer.doctor.examination import Examination  # and jax, once the configuration is good

    claim_stdout()
    show_findings = partial(_show, as_json=args.json)
    return Examination(jobs[0].config, args.download, stop, show_findings).run()


def _parser() -> argparse.ArgumentParser:
    usage = "[options] [+experiment=NAME] [OPTION=VALUE ...]"
    parser = command_line.parser("doctor", DESCRIPTION, EPILOG, usage)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--download", action="store_true", help="download missing data")
    command_line.add_overrides(parser)
    return parser


def _show(findings: Sequence[Finding], as_json: bool) -> None:
    if as_json:
        show(json.dumps([finding._asdict() for finding in findings], indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    with console.capture() as captured:
        for finding in findings:
            message = finding.message.replace("\n", f"\n{'':28}")
            level = Text(f"{finding.level:<8}", COLORS[finding.level])
            console.print(level, Text(f"{finding.check:<18} {message}"))
            if finding.hint:
                hint = finding.hint.replace("\n", f"\n{'':33}")
                console.print(Text(f"{'':28}fix: {hint}"))
    show(captured.get().rstrip("\n"))
