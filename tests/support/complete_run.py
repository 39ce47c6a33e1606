"""A job that takes seconds, and commands on its run, in this process."""

import dataclasses
import functools

from support import in_process

from trainer.commands import evaluate, runs, verify
from trainer.config.compose import compose
from trainer.job.signals import StopRequest
from trainer.train.job import run as train

# A run that is complete, with its checkpoints 42, 84 and 126.
JOB = (
    *("+experiment=smoke", "data.validation_fraction=0", "run.dir=run", "model.hidden_sizes=[8]"),
    *("train.steps_per_dispatch=21", "checkpoint.every_steps=42", "checkpoint.keep_last=9"),
    "train.pictures_every_epochs=null",
)


@functools.cache
def composed():
    (job,) = compose([*JOB, "parallel.devices=1"])
    return job


def start(run):
    """Start a run again, as its command does."""
    options = dataclasses.replace(composed().config.run, dir=str(run))
    job = composed()._replace(config=dataclasses.replace(composed().config, run=options))
    return in_process.ended(run.parent, lambda: train(job, StopRequest()))


def command(main):
    """Return a command that runs in this process, like `start`."""
    return lambda run: in_process.ended(
        run.parent, lambda: main([str(run), "--json"], StopRequest())
    )


COMMANDS = {
    "runs": command(runs.main),
    "verify": command(verify.main),
    "evaluate": command(evaluate.main),
    "start": start,
}


def record_of(run):
    return run / "checkpoints" / "126" / "record.json"
