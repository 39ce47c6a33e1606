"""How a step's time divides: computing, waiting for data, and the rest."""

from __future__ import annotations

import time

from trainer.account import Account


class Laps:
    """Milliseconds a step, from one look to the next."""

    def __init__(self, account: Account) -> None:
        """Begin now; the account is of this process."""
        self._account = account
        self._last = self._read()

    def lap(self, steps: int) -> dict[str, float]:
        """Return the milliseconds a step since the last call, in which `steps` steps were done.

        compute: handing steps to the devices and waiting for their results; data_wait: for batches;
        rest: evaluations, saving, logging, compiling. They add up to the time by the clock.
        """
        now = self._read()
        wall, compute, wait = (b - a for a, b in zip(self._last, now, strict=True))
        self._last = now
        each = 1000 / steps
        rest = max(0.0, wall - compute - wait)
        return {"compute": compute * each, "data_wait": wait * each, "rest": rest * each}

    def _read(self) -> tuple[float, float, float]:
        seconds = self._account.seconds
        return time.perf_counter(), seconds["step"], seconds["data_wait"]
