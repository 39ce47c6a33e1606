"""The goodput account of a run: where the seconds of all its starts went, kept over restarts."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.account import PHASES, Account
from trainer.atomic import to_json

WRITE_SECONDS = 1.0  # how much of a killed start's account is lost at most


class Ledger:
    """Adds this start's account to those of the starts before it; used by process 0 alone."""

    def __init__(
        self, path: Path, account: Account, resume_step: int, logged_step: int = 0
    ) -> None:
        """Read the account so far, and count this start in; a missing or damaged file begins anew.

        Args:
            path: of goodput.json.
            account: of this start.
            resume_step: where this start goes on; steps done beyond it are work lost.
            logged_step: the last that the start before it had logged, maybe after its last write.
        """
        self._path = path
        self._account = account
        self._before = before = _read(path)
        unwritten = max(0, logged_step - before["reached_step"])
        before["seconds"]["step"] += unwritten * before["seconds_per_step"]
        lost = max(0, before["reached_step"] + unwritten - resume_step)
        before["lost_steps"] += lost
        before["lost_seconds"] += lost * before["seconds_per_step"]
        self._first_step = self._step = resume_step
        self._written = 0.0
        self.write(resume_step, now=True)

    def write(self, step: int, *, now: bool = False) -> None:
        """Bring the file up to date, at most every second after the first steps unless `now`.

        It is whole whenever a process is killed, but not waited for until it is on the disk.
        """
        first = self._step == self._first_step
        self._step = step
        if now or first or time.monotonic() - self._written > WRITE_SECONDS:
            self._written = time.monotonic()
            temporary = self._path.with_name(f".{self._path.name}.tmp")
            with suppress(OSError):  # a full disk is for the checkpoints to tell
                temporary.write_text(to_json(self.totals(), indent=2) + "\n")
                temporary.replace(self._path)

    def totals(self) -> dict[str, Any]:
        """Return the account of all starts: JSON.

        seconds of each phase; starts; steps that were done again after a roll-back and the seconds
        they had taken; the step reached; goodput, the fraction of all seconds that went into steps
        whose result was kept.
        """
        before = self._before
        seconds = {name: before["seconds"][name] + self._account.seconds[name] for name in PHASES}
        steps = self._step - self._first_step
        pace = self._account.seconds["step"] / steps if steps else before["seconds_per_step"]
        useful = seconds["step"] - before["lost_seconds"]
        return {
            "starts": before["starts"] + 1,
            "seconds": seconds,
            "lost_steps": before["lost_steps"],
            "lost_seconds": before["lost_seconds"],
            "reached_step": self._step,
            "seconds_per_step": pace,
            "goodput": useful / max(sum(seconds.values()), 1e-9),
        }


def _read(path: Path) -> dict[str, Any]:
    new: dict[str, Any] = {
        "starts": 0,
        "seconds": dict.fromkeys(PHASES, 0.0),
        "lost_steps": 0,
        "lost_seconds": 0.0,
        "reached_step": 0,
        "seconds_per_step": 0.0,
    }
    try:
        found = json.loads(path.read_text())
        seconds = {name: float(found["seconds"][name]) for name in PHASES}
        totals = {name: type(zero)(found[name]) for name, zero in new.items() if name != "seconds"}
        return totals | {"seconds": seconds}
    except (OSError, ValueError, KeyError, TypeError):
        return new
