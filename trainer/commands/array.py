"""`python -m trainer -m --member I ...`: one member of a sweep, as a task of a job array."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

from trainer import lock, rundir, sweep_folder, topology
from trainer.commands.compose import compose_each
from trainer.commands.plan import Plan, arguments
from trainer.errors import EXIT_COMPLETED, ConfigError, TrainerError
from trainer.preemption import StopRequest
from trainer.terminal import Terminal


def main(planned: Plan, index: int, stop: StopRequest) -> int:
    """Train one member in this process, beside other tasks at the same sweep; return its exit code.

    All processes of the task have to be started alike; the first writes for them.

    Raises:
        TrainerError: of the kind that tells what went wrong.
    """
    if not 0 <= index < len(planned.members):
        last = len(planned.members) - 1
        raise ConfigError(f"--member {index}: the sweep has {last + 1} members: use 0 to {last}")
    member = planned.members[index]
    directory = planned.folder / member.name
    (job,) = compose_each([arguments(planned.folder, member)])
    chief = topology.resolve(job.config.cluster, os.environ).process_id == 0
    terminal = Terminal(quiet=job.config.run.quiet or not chief)
    if sweep_folder.finished(directory):
        terminal.note(f"{member.name} is finished, in {directory}")
        return EXIT_COMPLETED
    from trainer.job import run  # jax only after the configuration is known to be good

    with ExitStack() as stack:
        if chief:
            rundir.create(directory)
            stack.enter_context(lock.hold(planned.folder, sweep_folder.LOCK, "sweep", shared=True))
            sweep_folder.write_plan(planned.folder, planned.fixed, planned.members)
            sweep_folder.begin(directory)
        try:
            code = run(job.config, job.experiment, job.record, stop)
        except TrainerError as error:
            if chief:
                _end(planned.folder, directory, error.exit_code, str(error))
            raise
        if chief:
            _end(planned.folder, directory, code, _error_of(directory))
    return code


def _end(folder: Path, directory: Path, code: int, error: str | None) -> None:
    sweep_folder.end(directory, code, error)
    sweep_folder.write_table(folder, sweep_folder.results(folder))


def _error_of(directory: Path) -> str | None:
    try:
        error = json.loads((directory / "summary.json").read_text())["error"]
    except (OSError, ValueError, KeyError):
        return None
    return None if error is None else str(error)
