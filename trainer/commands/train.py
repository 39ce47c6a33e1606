"""`python -m trainer [overrides]`: Hydra's configuration in, an exit code out."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.commands.compose import compose
from trainer.preemption import StopRequest


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Train as the arguments say, until done or asked to stop; return the exit code.

    Raises:
        TrainerError: of the kind that tells what went wrong.
    """
    jobs = compose(arguments)
    if not jobs:  # --help, --cfg and the like: Hydra has answered
        return 0
    from trainer.job import run  # jax only after the configuration is known to be good

    return max(run(job.config, job.experiment, job.record, stop) for job in jobs)
