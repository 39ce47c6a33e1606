"""Before a job queues: does it fit on its devices? `plan` says so, in a process of its own."""

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from functools import partial
from tempfile import TemporaryFile

from trainer.config.compose import Job
from trainer.config.schema import Config
from trainer.job import processes
from trainer.job.errors import EXIT_COMPLETED, EXIT_CONFIG, ConfigError
from trainer.job.signals import StopRequest
from trainer.plan.devices import shown
from trainer.tracking.terminal import Terminal

SECONDS = 60.0  # for all; a large data set, or model, is planned by hand
HINT = "`python -m trainer plan` shows why; --no-plan submits without it"
OPTIONS = ("nodes", "gpus_per_node", "tasks_per_node", "device")  # of both commands


def check(
    args: argparse.Namespace,
    jobs: Sequence[Job],
    lists: Sequence[Sequence[str]],
    stop: StopRequest,
) -> None:
    """Plan the jobs, one of those that need the same memory, and note what a device needs.

    `args` are the options of `submit`; `lists` has the overrides of each job. What prevents
    planning, such as data that are on the compute nodes only, is a warning.

    Raises:
        Preempted: this process was asked to stop.
        ConfigError: a job does not fit, or `plan` refuses its configuration.
    """
    distinct = {_needs(job.config): overrides for job, overrides in zip(jobs, lists, strict=True)}
    terminal, until, largest = Terminal(), time.monotonic() + SECONDS, 0
    given = {name.replace("_", "-"): getattr(args, name) for name in OPTIONS}
    options = [f"--{name}={value}" for name, value in given.items() if value]
    options += [f"--device-memory={args.device_memory:.0f}B"] if args.device_memory else []
    look = partial(stop.check, "before the job was submitted")
    for overrides in distinct.values():
        command = [sys.executable, "-m", "trainer", "plan", "--json", *options, *overrides]
        # Files, not pipes: a child whose pipe is full and not read would wait.
        with TemporaryFile("w+") as out, TemporaryFile("w+", errors="replace") as err:
            child = processes.start(command, stdout=out, stderr=err)
            try:
                ended = processes.wait([child], until - time.monotonic(), look, poll=0.2)
            finally:
                processes.end([child])
            if not ended:
                message = f"how much memory the job needs is not known after {SECONDS:g} s"
                terminal.warn(f"{message}: {HINT}")
                return
            for file in (out, err):
                file.seek(0)
            error = re.search("^error: (.*)", err.read(), re.MULTILINE | re.DOTALL)
            message = error[1].strip() if error else f"plan ended with {child.returncode}"
            if child.returncode == EXIT_CONFIG:
                raise ConfigError(message)
            if child.returncode != EXIT_COMPLETED:
                terminal.warn(f"how much memory the job needs is not known: {message}")
                return
            largest = max(largest, json.load(out)["device_memory"]["total"])
    terminal.note(f"each device needs {shown(largest)}, by `python -m trainer plan`")


def _needs(config: Config) -> str:
    """Return what determines the memory of a job, as text."""
    train = config.train
    sizes = (train.global_batch_size, train.accumulate, train.eval_batch_size)
    optim = config.optim
    optimizer = (optim.name, optim.options, optim.momentum, optim.clip_norm)
    parts = (config.data, config.model, config.augment, config.ema, config.parallel, config.init)
    return repr((*parts, *optimizer, *sizes, train.steps_per_dispatch))
