"""`python -m trainer [overrides]`: Hydra's configuration in, an exit code out."""

from __future__ import annotations

from collections.abc import Sequence

import trainer
from trainer.commands import plan
from trainer.commands.compose import compose
from trainer.commands.printing import show
from trainer.preemption import StopRequest


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Train as the arguments say, until done or asked to stop; return the exit code.

    Raises:
        TrainerError: of the kind that tells what went wrong.
    """
    if plan.is_sweep(arguments):
        from trainer.commands import multirun

        return multirun.main(arguments, stop)
    if "--version" in arguments:  # Hydra would tell its own
        show(f"trainer {trainer.__version__}")
        return 0
    jobs = compose(arguments)
    if not jobs:  # --help, --cfg and the like: Hydra has answered
        return 0
    from trainer.job import run  # jax only after the configuration is known to be good

    (job,) = jobs
    return run(job.config, job.experiment, job.record, stop)
