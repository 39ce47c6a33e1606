"""How the devices and cores of this machine are divided among the trials that train at once."""

from collections.abc import Mapping, Sequence
from os import sched_getaffinity
from typing import NamedTuple, TypeVar

from trainer.distributed import gpus
from trainer.job import processes
from trainer.job.errors import ConfigError


class Machine(NamedTuple):
    """What the process of the sweep may use."""

    gpus: tuple[str, ...]  # as CUDA_VISIBLE_DEVICES has them; none: it trains on the CPU
    devices: int  # that jax makes of the CPU
    cores: tuple[int, ...]

    @property
    def divided(self) -> tuple[int, str]:
        """Return how many there are of what no two trials share, and its name."""
        if self.gpus:
            return len(self.gpus), "GPUs"
        if self.devices > 1:
            return self.devices, "simulated devices"
        return len(self.cores), "cores"


class Share(NamedTuple):
    """What one trial gets."""

    environ: dict[str, str] | None  # the variables of its process; None: those of this one
    cores: tuple[int, ...] | None  # None: all
    gpus: int = 0  # that it has to find; 0: no matter


WHOLE = Share(None, None)
_Item = TypeVar("_Item")


def machine(environ: Mapping[str, str]) -> Machine:
    """Return what this process may use, without asking jax."""
    cores = tuple(sorted(sched_getaffinity(0)))
    return Machine(gpus.usable(environ), processes.simulated_devices(environ), cores)


def divide(machine: Machine, count: int, environ: Mapping[str, str]) -> list[Share]:
    """Return `count` equal shares; a single one is all that there is. Pure.

    No two shares have a device in common. They have cores in common only where there are fewer
    cores than shares.

    Raises:
        ConfigError: sweep.parallel=count is more than there is to divide, or does not divide it.
    """
    if count == 1:
        return [WHOLE]
    total, what = machine.divided
    if count > total:
        message = f"sweep.parallel={count}: more than there are {what} for this process, {total}"
        raise ConfigError(message, f"use at most {total}, or auto")
    if what != "cores" and total % count:
        divisors = ", ".join(str(n) for n in range(1, total + 1) if total % n == 0)
        raise ConfigError(
            f"sweep.parallel={count} does not divide {total} {what}",
            f"use a divisor of {total} ({divisors}), or auto",
        )
    # Without the variables by which a trial would look for all GPUs of a SLURM job.
    env, shares = processes.environment(environ, 1, 0, ""), list[Share]()
    for index in range(count):
        own, cores = dict(env), _part(machine.cores, index, count)
        if machine.gpus:
            own[gpus.CUDA_VISIBLE] = ",".join(_part(machine.gpus, index, count))
        elif machine.devices > 1:
            own = processes.with_devices(env, machine.devices // count)
        shares.append(Share(own, cores, len(machine.gpus) // count))
    return shares


def _part(items: Sequence[_Item], index: int, count: int) -> tuple[_Item, ...]:
    """Return part `index` of `count` contiguous ones; one item where there are fewer of them."""
    begin, end = (at * len(items) // count for at in (index, index + 1))
    return tuple(items[begin : max(end, begin + 1)])
