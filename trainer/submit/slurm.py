"""A SLURM job: the batch script of scripts/slurm, with the numbers and options of one job."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.job.errors import ConfigError

SCRIPT = Path("scripts", "slurm", "train.sbatch")


def check_environment(checkout: Path, environ: Mapping[str, str]) -> None:
    """Check the variables that the batch script reads.

    Raises:
        ConfigError: one is wrong.
    """
    restarts = environ.get("MAX_RESTARTS") or "20"
    if not re.fullmatch("[0-9]{1,4}", restarts):
        raise ConfigError(f"MAX_RESTARTS={restarts}: use a whole number from 0 to 9999")
    given = environ.get("TRAINER_VENV")
    venv = checkout / (given or ".venv")
    if not os.access(venv / "bin" / "python", os.X_OK):
        raise ConfigError(
            f"TRAINER_VENV={given}: {venv} is not an environment",
            "make one with `scripts/_venv accelerator` on a file system that all nodes share, or "
            "name another",
        )


def command(args: argparse.Namespace, checkout: Path, array: Sequence[str]) -> list[str]:
    """Return the command that submits the job, without the arguments of the batch script.

    Args:
        args: of `submit`.
        checkout: holds the script.
        array: the options of sbatch that make it a job array, if it is one.
    """
    words = ["sbatch", "--parsable", f"--nodes={args.nodes}"]
    words += [f"--gpus-per-node={args.gpus_per_node}"] if args.gpus_per_node else []
    words += [f"--ntasks-per-node={args.tasks_per_node}"] if args.tasks_per_node > 1 else []
    words += [f"--cpus-per-task={args.cpus_per_task}"] if args.cpus_per_task else []
    words += [f"--job-name={args.name}"] if args.name else []
    return [*words, *array, *args.scheduler_option, str(checkout / SCRIPT)]


def log(args: argparse.Namespace, number: str) -> str:
    """Return the output file of the job, or of the first task of an array, quoted for a shell."""
    given = dict(option.partition("=")[::2] for option in args.scheduler_option)
    pattern = given.get("--output", "slurm-%A_%a.out" if args.multirun else "slurm-%j.out")
    name = given.get("--job-name", args.name or "trainer")
    for letter, value in (("j", number), ("A", number), ("a", "0"), ("x", name)):
        pattern = pattern.replace(f"%{letter}", value)
    return shlex.quote(pattern)
