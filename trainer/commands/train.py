"""`python -m trainer [overrides]`: Hydra's configuration in, an exit code out."""

import difflib
from collections.abc import Sequence

import trainer
from trainer.commands import COMMANDS
from trainer.config.compose import compose
from trainer.job.errors import ConfigError
from trainer.job.signals import StopRequest
from trainer.job.stdout import show


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Train as the arguments say, until done or asked to stop."""
    if "--version" in arguments:  # Hydra would print its own
        show(f"trainer {trainer.__version__}")
        return 0
    for word in (argument for argument in arguments if "=" not in argument):
        if near := difflib.get_close_matches(word, COMMANDS, n=1, cutoff=0.6):
            raise ConfigError(f"{word} is not a command: did you mean {near[0]}?")
    jobs = compose(arguments)
    if not jobs:  # --help, --cfg and the like: Hydra has answered
        return 0
    from trainer.train.job import run  # jax only after the configuration is known to be good

    (job,) = jobs
    return run(job.config, job.experiment, job.record, stop)
