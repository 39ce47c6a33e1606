"""The batch script of scripts/slurm, with the numbers and options of one job."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.job.errors import ConfigError

SCRIPT = Path("scripts", "slurm", "train.sbatch")
# Options of sbatch that change what was checked -> the option of ours that is checked.
_OURS = {
    "nodes": "--nodes",
    "ntasks": "--tasks-per-node",
    "ntasks-per-core": "--tasks-per-node",
    "ntasks-per-gpu": "--tasks-per-node",
    "ntasks-per-node": "--tasks-per-node",
    "ntasks-per-socket": "--tasks-per-node",
    "tasks-per-node": "--tasks-per-node",
    "gpus": "--gpus-per-node",
    "gpus-per-node": "--gpus-per-node",
    "gpus-per-socket": "--gpus-per-node",
    "gpus-per-task": "--gpus-per-node and --tasks-per-node",
    "gres": "--gpus-per-node",
    "array": "-m, for a sweep",
    "chdir": "run.root=DIR, and --scheduler-option=--output=DIR/slurm-%j.out",
}
_SHORT = {"N": "nodes", "n": "ntasks", "G": "gpus", "a": "array", "D": "chdir"}


def check_options(options: Sequence[str]) -> None:
    """Check that options for sbatch leave alone what is checked here.

    Raises:
        ConfigError: one does not, or is none.
    """
    for text in options:
        if not re.match("--?[A-Za-z]", text):
            raise ConfigError(
                f"--scheduler-option={text}: each is one text, like "
                "--scheduler-option=--partition=gpu"
            )
        name = text.partition("=")[0]
        word = name[2:] if name.startswith("--") else _SHORT.get(name[1], "-")
        # sbatch takes the beginning of a name for the name.
        if ours := next((ours for full, ours in _OURS.items() if full.startswith(word)), None):
            raise ConfigError(
                f"--scheduler-option={text}: changes what is checked and told here: use {ours}"
            )


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
            f"TRAINER_VENV={given}: {venv} is not an environment: make one with `scripts/_venv "
            "accelerator` on a file system that all nodes share, or name another"
        )


def command(args: argparse.Namespace, checkout: Path, array: Sequence[str]) -> list[str]:
    """Return what submits the job, without the arguments of the batch script.

    Args:
        args: of `submit`.
        checkout: whose script is submitted.
        array: options that make an array of it.
    """
    words = ["sbatch", "--parsable", f"--nodes={args.nodes}"]
    words += [f"--gpus-per-node={args.gpus_per_node}"] if args.gpus_per_node else []
    words += [f"--ntasks-per-node={args.tasks_per_node}"] if args.tasks_per_node > 1 else []
    words += [f"--cpus-per-task={args.cpus_per_task}"] if args.cpus_per_task else []
    words += [f"--job-name={args.name}"] if args.name else []
    return [*words, *array, *args.scheduler_option, str(checkout / SCRIPT)]


def log(args: argparse.Namespace, number: str) -> str:
    """Return the file that the job's output goes to, or that of the first task of an array."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-J", "--job-name", nargs="?", default=args.name or "trainer")
    name = "slurm-%A_%a.out" if args.multirun else "slurm-%j.out"
    parser.add_argument("-o", "--output", nargs="?", default=name)
    given = parser.parse_known_args(args.scheduler_option)[0]
    known = {"%%": "%", "%j": number, "%A": number, "%a": "0", "%x": given.job_name}
    return shlex.quote(re.sub("%[%jAax]", lambda found: known[found.group()], given.output))
