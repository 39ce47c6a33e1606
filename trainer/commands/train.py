"""`python -m trainer [overrides]`: Hydra's configuration in, an exit code out."""

from collections.abc import Sequence

import trainer
from trainer.commands import COMMANDS
from trainer.config.compose import compose
from trainer.config.explain import FLAGS, refuse_words
from trainer.job.signals import StopRequest
from trainer.job.stdout import show


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Train as the arguments say, until done or asked to stop."""
    if "--version" in arguments:  # Hydra would print its own
        show(f"trainer {trainer.__version__}")
        return 0
    others = [word for word in arguments if word.partition("=")[0] not in FLAGS]
    refuse_words(others, commands=COMMANDS)
    jobs = compose(arguments)
    if not jobs:  # --help, --cfg and the like: Hydra has answered
        return 0
    from trainer.train.job import run  # jax only after the configuration is known to be good

    (job,) = jobs
    return run(job, stop)
