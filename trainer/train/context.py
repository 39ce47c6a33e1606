"""What a job asks of its run, and what all its processes do together on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from trainer.config.schema import Config
from trainer.distributed import collectives
from trainer.distributed.initialize import ProcessContext
from trainer.job.errors import Preempted, writing
from trainer.job.signals import StopRequest
from trainer.tracking import summary
from trainer.tracking.goodput import PhaseTimer
from trainer.tracking.terminal import Terminal

T = TypeVar("T")


class Task(NamedTuple):
    """What a job asks of its run, and what it follows it by."""

    config: Config
    place: ProcessContext
    record: Mapping[str, str]  # file name -> text, kept in .hydra/ of the run directory
    stop: StopRequest  # whether somebody asked for a stop
    terminal: Terminal  # what a person sees
    timer: PhaseTimer  # where the time goes
    report: summary.Report  # summary.json in the making


def check_stop(task: Task, before: str) -> None:
    """Stop on all processes if any was asked to.

    Args:
        task: the job's.
        before: what has not been done yet.

    Raises:
        Preempted: one was.
    """

    def check() -> None:
        if task.stop():
            raise Preempted(f"{task.stop.signal_name} received before {before}")

    collectives.share(check)


def in_directory(task: Task, work: Callable[[], T]) -> T:
    """Do file work in the run directory on each process; where it fails on one, all end alike.

    Returns what it got on this one.

    Raises:
        ConfigError, SaveError: it cannot be written to.
    """

    def write() -> T:
        with writing(task.place.directory):
            return work()

    return collectives.together(write)
