"""Before a job queues: does it fit on its devices? `plan` says so, in a process of its own."""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from trainer.config.compose import Job
from trainer.config.schema import Config
from trainer.job import processes
from trainer.job.errors import EXIT_COMPLETED, EXIT_CONFIG, ConfigError
from trainer.job.signals import StopRequest
from trainer.plan.devices import shown
from trainer.tracking.terminal import Terminal

SECONDS = 60.0  # for all; a large data set, or model, is planned by hand
HINT = "`python -m trainer plan` shows why; --no-plan submits without it"


def check(
    args: argparse.Namespace,
    jobs: Sequence[Job],
    lists: Sequence[Sequence[str]],
    stop: StopRequest,
) -> None:
    """Plan each job, of those that need the same only one, and note what a device needs.

    What prevents that, such as data that are on the compute nodes only, is a warning.

    Args:
        args: of this command.
        jobs: the composed jobs.
        lists: the overrides of each.
        stop: whether this process was asked to stop.

    Raises:
        Preempted: it was.
        ConfigError: a job does not fit, or `plan` refuses its configuration.
    """
    several = {_needs(job.config): overrides for job, overrides in zip(jobs, lists, strict=True)}
    terminal, until, largest = Terminal(), time.monotonic() + SECONDS, 0
    options = [f"--nodes={args.nodes}", f"--gpus-per-node={args.gpus_per_node}"]
    options += [f"--tasks-per-node={args.tasks_per_node}"]
    options += [f"--device={args.device}"] if args.device else []
    options += [f"--device-memory={args.device_memory:.0f}B"] if args.device_memory else []
    for overrides in several.values():
        command = [sys.executable, "-m", "trainer", "plan", "--json", *options, *overrides]
        child = processes.start(
            command,
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    out, err = child.communicate(timeout=0.2)
                    break
                stop.check("before the job was submitted")
                if time.monotonic() > until:
                    message = f"how much memory the job needs is not known after {SECONDS:g} s"
                    terminal.warn(f"{message}: {HINT}")
                    return
        finally:
            processes.end([child])
        error = re.search("^error: (.*)", err, re.MULTILINE | re.DOTALL)
        message = error[1].strip() if error else f"plan ended with {child.returncode}"
        if child.returncode == EXIT_CONFIG:
            raise ConfigError(message)
        if child.returncode != EXIT_COMPLETED:
            terminal.warn(f"how much memory the job needs is not known: {message}")
            return
        largest = max(largest, json.loads(out)["device_memory"]["total"])
    terminal.note(f"each device needs {shown(largest)}, by `python -m trainer plan`")


def _needs(config: Config) -> str:
    """Return what determines the memory of a job, as text."""
    train = config.train
    sizes = (train.global_batch_size, train.accumulate, train.eval_batch_size)
    optim = config.optim
    optimizer = (optim.name, optim.options, optim.momentum, optim.clip_norm)
    parts = (config.data, config.model, config.augment, config.ema, config.parallel, config.init)
    return repr((*parts, *optimizer, *sizes, train.steps_per_dispatch))
