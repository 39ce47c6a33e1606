"""`python -m trainer -m --member I ...`: one member of a sweep, as a task of a job array."""

from __future__ import annotations

import os
from contextlib import ExitStack

from trainer.config.compose import compose_each
from trainer.distributed import topology
from trainer.job import directory as rundir
from trainer.job import lock
from trainer.job.errors import EXIT_COMPLETED, EXIT_RETRY, ConfigError, TrainerError
from trainer.job.signals import StopRequest
from trainer.sweep import folder, trial, unchanged
from trainer.sweep.plan import Plan, arguments
from trainer.sweep.results import show_results
from trainer.tracking import runs
from trainer.tracking.terminal import Terminal


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
    unchanged.check(planned.folder, planned.fixed)
    if trial.finished(directory):
        terminal.note(f"{member.name} is finished, in {directory}")
        return EXIT_COMPLETED
    from trainer.train.job import run  # jax only after the configuration is known to be good

    with ExitStack() as stack:
        if chief:
            rundir.create(directory)
            stack.enter_context(lock.hold(planned.folder, folder.LOCK, "sweep", shared=True))
            with folder.writing(planned.folder):
                folder.write_plan(planned.folder, planned.fixed, planned.members)
                if not lock.held(directory):
                    trial.begin(directory)
        failure: TrainerError | None = None
        try:
            code = run(job.config, job.experiment, job.record, stop)
            told = runs.text(runs.read_or_empty(directory / "summary.json").get("error"))
        except TrainerError as error:
            failure, code, told = error, error.exit_code, str(error)
        if chief and not lock.held(directory):  # by another start, whose files these are then
            with folder.writing(planned.folder):
                trial.end(directory, code, told)
                with folder.turn(planned.folder):
                    folder.write_table(planned.folder)
            if code != EXIT_RETRY:  # a task that has to stop has no time to draw
                show_results(planned.folder, terminal.warn)
        if failure is not None:
            raise failure
    return code
