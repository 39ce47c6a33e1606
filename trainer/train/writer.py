"""What process 0 alone writes to the run directory: checkpoints, curves, the goodput account."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainer.checkpoint import checksums
from trainer.checkpoint.background import Background
from trainer.checkpoint.store import Checkpoints
from trainer.config.fingerprint import differences
from trainer.config.schema import Config
from trainer.job import directory as committed
from trainer.job import directory as rundir
from trainer.job.errors import SaveError, first_line
from trainer.parallel.memory import room_for
from trainer.parallel.step import TrainState
from trainer.tracking import environment, summaries
from trainer.tracking.goodput import Ledger, PhaseTimer
from trainer.tracking.tensorboard import Tracker
from trainer.tracking.terminal import Terminal
from trainer.train.progress import State as ProgressState

_copy = jax.jit(partial(jax.tree.map, jnp.copy))


def _local(state: TrainState) -> TrainState:
    """Return a state that every device holds as this process's first device has it."""
    local: TrainState = jax.tree.map(lambda leaf: leaf.addressable_data(0), state)
    return local


class Writer:
    """The files of one run; they are closed with the stack."""

    def __init__(
        self,
        config: Config,
        directory: Path,
        terminal: Terminal,
        timer: PhaseTimer,
        stack: ExitStack,
    ) -> None:
        """Open the checkpoints; begin() opens the rest, once it is known where the run goes on.

        Args:
            config: every option.
            directory: of the run.
            terminal: is warned.
            timer: of the time; saving is counted in.
            stack: closes what is opened here.
        """
        self._config = config
        self._directory = directory
        self._terminal = terminal
        self._timer = timer
        self._stack = stack
        root = config.data.root  # from another folder, a relative one is found by this alone
        self._data_root = None if root is None else str(Path(root).expanduser().absolute())
        self._failed: list[str] = []  # why the last saves in a row could not be made
        self._failure: SaveError | None = None  # set when no more failed saves are tolerated
        self.checkpoints = stack.enter_context(
            Checkpoints(
                directory / committed.CHECKPOINTS,
                keep_last=config.checkpoint.keep_last,
                keep_best=config.checkpoint.keep_best,
                warn=terminal.warn,
            )
        )
        self._on_device: bool | None = None  # whether states are copied there
        self._saving: Background[str | None] = Background()  # what to warn of

    def begin(
        self,
        resume_step: int | None,
        saved: Mapping[str, Any],
        meaning: Mapping[str, Any],
        objective: Mapping[str, Any],
        record: Mapping[str, str],
        devices: list[str],
        state: TrainState,
    ) -> None:
        """Say what the run stands on, and open what it will log to.

        Args:
            resume_step: where the run goes on; None: it is new.
            saved: the record of the checkpoint there; empty: it is new.
            meaning: of the configuration (see meaning.py), for the checkpoints.
            objective: what a model is besides its weights (see objective.py), for the checkpoints.
            record: file name -> text, for .hydra/.
            devices: a line for each.
            state: as training begins.
        """
        with self._timer.phase("compile"):
            self._copy = _copy.lower(_local(state)).compile()
        self._meaning = meaning
        self._objective = objective
        self._facts = environment.collect(devices, jax.process_count())
        changed = differences(saved["versions"], self._facts["versions"]) if saved else []
        if changed:
            self._terminal.warn(
                f"the run goes on with other versions ({', '.join(changed)}): its last digits may "
                "differ from those of an unbroken run"
            )
        rundir.describe(self._directory, record, self._facts)
        self.tracker = self._stack.enter_context(
            Tracker(self._directory, resume_step=resume_step, warn=self._terminal.warn)
        )
        self._stack.callback(self._close)
        yaml, before = record["config.yaml"], saved.get("config")
        summaries.write(self.tracker, self._config, before, yaml, self._facts)
        goodput, reached = self._directory / "goodput.json", self.tracker.reached
        self.ledger = Ledger(goodput, self._timer, resume_step or 0, reached)

    def save(
        self, step: int, state: TrainState, progress: ProgressState, accuracy: float | None
    ) -> None:
        """Begin to write a checkpoint; the state is on the devices and may be donated afterwards.

        The save before it is waited for. A save that fails is told and counted when it is over.
        """
        with self._timer.phase("save"):
            self._settle(wait=True)
            copy = self._snapshot(_local(state))
            record = {
                "meaning": dict(self._meaning),
                "objective": dict(self._objective),
                "config": dataclasses.asdict(self._config),
                "config_sha256": checksums.of_json(dataclasses.asdict(self._config)),
                "data_root": self._data_root,
                "versions": self._facts["versions"],
                "progress": progress,
            }

            def write() -> str | None:
                self.tracker.flush()  # no point before the checkpoint may get lost after it
                return self.checkpoints.save(step, jax.device_get(copy), record, accuracy)

            self._saving.submit(write)
        self.ledger.write(step, now=True)

    def _snapshot(self, state: TrainState) -> TrainState:
        """Return a copy of a state, which is donated to the next step.

        On the device, where it takes a moment, and as much memory again until it is written.
        """
        if self._on_device is None:  # later the peak has the copy itself in it
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
            self._on_device = room_for(size, jax.local_devices()[0].memory_stats())
        copied: TrainState = self._copy(state) if self._on_device else jax.tree.map(np.array, state)
        return copied

    def failing(self) -> bool:
        """Return whether more saves in a row have failed than are tolerated."""
        self._settle(wait=False)
        return self._failure is not None

    def finish_saves(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            SaveError: it could not be, or too many before it.
        """
        with self._timer.phase("save"):
            self._settle(wait=True)
        if self._failure is not None:
            raise self._failure
        if self._failed:
            raise SaveError(
                f"the last checkpoint is not written to {self._directory}: {self._failed[-1]}",
                "make room or mend the folder, then run the same command again",
            )

    def _settle(self, *, wait: bool) -> None:
        """Count in the save under way if it is over: one that fails is told."""
        try:
            saved = self._saving.collect(wait=wait)
        except Exception as error:  # orbax raises anything when it cannot write
            full = os.strerror(errno.ENOSPC)
            told = first_line(error)  # orbax says it at the end of a long line
            self._failed.append(full if full in told or "os_error_code='28'" in told else told)
        else:
            if saved:
                self._failed.clear()
            for told in filter(None, saved):
                self._terminal.warn(told)
            return
        count, limit = len(self._failed), self._config.checkpoint.max_failed_saves
        told = f"a checkpoint cannot be written to {self._directory}: {self._failed[-1]}"
        self._terminal.warn(f"{told} (failure {count} in a row, {limit} are tolerated)")
        if count > limit:
            self._failure = SaveError(
                f"{told}. Those before it are intact: make room or mend the folder, then run the "
                "same command again (checkpoint.max_failed_saves tells how many are tolerated)"
            )

    def _close(self) -> None:
        """Let the save under way come to its end, whatever ends the run."""
        self._settle(wait=True)
        self._saving.close()
