"""What process 0 alone writes to the run directory: checkpoints, curves, the goodput account."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np

from trainer import description, digest, environment, rundir
from trainer.account import Account
from trainer.checkpoint import Checkpoints
from trainer.config import Config
from trainer.errors import SaveError
from trainer.goodput import Ledger
from trainer.meaning import differences
from trainer.progress import State as ProgressState
from trainer.step import TrainState
from trainer.terminal import Terminal
from trainer.tracking import Tracker


class Writer:
    """The files of one run; close() comes with the stack."""

    def __init__(
        self,
        config: Config,
        directory: Path,
        terminal: Terminal,
        account: Account,
        stack: ExitStack,
    ) -> None:
        """Open the checkpoints; begin() opens the rest, once it is known where the run goes on.

        Args:
            config: every option.
            directory: of the run.
            terminal: is warned.
            account: of the time; saving is counted in.
            stack: closes what is opened here.
        """
        self._config = config
        self._directory = directory
        self._terminal = terminal
        self._account = account
        self._stack = stack
        self._failed_saves = 0
        self.failure: SaveError | None = None  # set when no more failed saves are borne
        self.checkpoints = stack.enter_context(
            Checkpoints(
                directory / "checkpoints",
                keep_last=config.checkpoint.keep_last,
                keep_best=config.checkpoint.keep_best,
                warn=terminal.warn,
            )
        )

    def begin(
        self,
        resume_step: int | None,
        saved: Mapping[str, Any],
        meaning: Mapping[str, Any],
        objective: Mapping[str, Any],
        record: Mapping[str, str],
        devices: list[str],
    ) -> None:
        """Say what the run stands on, and open what it will log to.

        Args:
            resume_step: where the run goes on; None: it is new.
            saved: the record of the checkpoint there; empty: it is new.
            meaning: of the configuration (see meaning.py), for the checkpoints.
            objective: what a model is besides its weights (see step.py), for the checkpoints.
            record: file name -> text, for .hydra/.
            devices: a line for each.
        """
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
        yaml, before = record["config.yaml"], saved.get("config")
        description.write(self.tracker, self._config, before, yaml, self._facts)
        self.ledger = Ledger(self._directory / "goodput.json", self._account, resume_step or 0)

    def save(
        self, step: int, state: TrainState, progress: ProgressState, accuracy: float | None
    ) -> None:
        """Start writing a checkpoint; the state is on the devices and may be donated afterwards.

        A save that fails is told and counted; `failure` is set when it was one too many.
        """
        with self._account.phase("save"):
            self.tracker.flush()  # no point that comes before the checkpoint may get lost after it
            host = jax.tree.map(np.array, jax.device_get(state))  # copied: the state is donated
            record = {
                "meaning": dict(self._meaning),
                "objective": dict(self._objective),
                "config": dataclasses.asdict(self._config),
                "config_sha256": digest.of_json(dataclasses.asdict(self._config)),
                "versions": self._facts["versions"],
                "progress": progress,
            }
            try:
                self.checkpoints.save(step, host, record, accuracy)
            except Exception as error:  # orbax raises anything when it cannot write
                self._save_failed(error)
            else:
                self._failed_saves = 0

    def finish_saves(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            SaveError: it could not be, or too many before it.
        """
        with self._account.phase("save"):
            try:
                self.checkpoints.wait()
            except Exception as error:  # orbax raises anything when it cannot write
                self._save_failed(error)
                raise SaveError(f"the last checkpoint is not written: {error}") from None
        if self.failure is not None:
            raise self.failure

    def _save_failed(self, error: Exception) -> None:
        self._failed_saves += 1
        limit = self._config.checkpoint.max_failed_saves
        reason = (str(error) or type(error).__name__).splitlines()[0]
        told = f"a checkpoint cannot be written to {self._directory}: {reason}"
        self._terminal.warn(f"{told} (failure {self._failed_saves}, at most {limit} are borne)")
        if self._failed_saves > limit:
            self.failure = SaveError(
                f"{told}. Those before it are intact: make room or mend the folder, then run the "
                "same command again (checkpoint.max_failed_saves says how many failures are borne)"
            )
