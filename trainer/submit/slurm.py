"""A SLURM job: the batch script of scripts/slurm, with the numbers and options of one job."""

import argparse
import os
import re
import shlex
from pathlib import Path

from trainer.config.compose import Job
from trainer.job import processes, resources
from trainer.job.directory import choose
from trainer.job.errors import ConfigError
from trainer.job.stdout import show
from trainer.sweep.plan import Plan

SCRIPT = Path("scripts", "slurm", "train.sbatch")


def check_environment() -> None:
    """Raise ConfigError unless there is a Python environment, for the batch script to use."""
    given, home = os.environ.get("TRAINER_VENV"), resources.home()
    # An installed package is in ENVIRONMENT/lib/python3.N/site-packages.
    venv = home / (given or (".venv" if resources.is_checkout() else home.parents[3]))
    if not os.access(venv / "bin" / "python", os.X_OK):
        raise ConfigError(
            f"TRAINER_VENV={given}: {venv} is not an environment",
            "make one on a file system that all nodes share (scripts/_venv accelerator), or name "
            "another",
        )


def submit(args: argparse.Namespace, job: Job, sweep: Plan | None) -> None:
    """Submit a job, or a sweep as a job array; with --dry-run, show the command."""
    words = ["sbatch", "--parsable", f"--nodes={args.nodes}"]
    words += [f"--gpus-per-node={args.gpus_per_node}"] if args.gpus_per_node else []
    words += [f"--ntasks-per-node={args.tasks_per_node}"] if args.tasks_per_node > 1 else []
    words += [f"--cpus-per-task={args.cpus_per_task}"] if args.cpus_per_task else []
    words += [f"--job-name={args.name}"] if args.name else []
    if sweep:
        limit = f"%{args.at_once}" if args.at_once else ""
        words += [f"--array=0-{len(sweep.trials) - 1}{limit}", "--output=slurm-%A_%a.out"]
    words += [*args.scheduler_option, str(resources.home() / SCRIPT)]
    # Not every site hands its environment to jobs.
    if folder := os.environ.get(resources.CONFIG_DIR):
        words.append(f"--config-dir={folder}")
    words += ["-m", *args.overrides] if sweep else args.overrides
    if args.dry_run:
        show(shlex.join(words))
        return
    number = processes.output(words).strip().partition(";")[0]  # NUMBER[;CLUSTER]
    log = f"tail -F {_log(args, number)}"
    if sweep:
        name, where = f"job array {number}, {len(sweep.trials)} tasks", str(sweep.folder)
        follow = f"python -m trainer sweep {shlex.quote(where)}"
        rows = {"sweep": where, "follow": follow, "a task": log}
    else:
        name, config = f"job {number}", job.config.run
        where = str(choose(config.root, job.experiment, config.name or number, config.dir))
        rows = {"run": where, "follow": log}
    rows = {"submitted": f"SLURM {name}", **rows, "state": f"squeue --jobs={number}"}
    rows["save, requeue"] = f"scancel --signal=TERM {number}"
    rows["cancel"] = f"scancel {number}"
    show("\n".join(f"{name:15}{text}" for name, text in rows.items()))


def _log(args: argparse.Namespace, number: str) -> str:
    """Return the output file of the job, or of the first task of an array, quoted for a shell."""
    given = dict(option.partition("=")[::2] for option in args.scheduler_option)
    pattern = given.get("--output", "slurm-%A_%a.out" if args.multirun else "slurm-%j.out")
    values = {"j": number, "A": number, "a": "0"}
    values["x"] = given.get("--job-name", args.name or "trainer")
    return shlex.quote(re.sub("%([jAax])", lambda match: values[match[1]], pattern))
