"""One trial of a sweep, at work in a child process."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from trainer.job import directory, processes
from trainer.job.errors import EXIT_INTERNAL, EXIT_RETRY, TrainerError, writing
from trainer.job.files import write_json
from trainer.sweep import folder as sweep_folder
from trainer.sweep.folder import Trial
from trainer.sweep.shares import Share


class Child:
    """A trial in a process of its own; if this process dies, the kernel kills that one, too."""

    def __init__(self, folder: Path, number: int, trial: Trial, share: Share) -> None:
        """Start to train trial `number` of a sweep, in its folder, with a share of this machine.

        Raises:
            SaveError, ConfigError: the folder cannot be written.
        """
        self.number, self.run = number, folder / trial.name
        self.asked = False  # whether it was asked to stop
        self.began = time.time()  # unix seconds
        self._output, self._ending = (
            self.run / name for name in (sweep_folder.OUTPUT, sweep_folder.ENDING)
        )
        directory.create(self.run)
        command = [sys.executable, "-m", "trainer", *trial.overrides]
        if share.gpus:  # else it would train on the CPU where it sees none
            command.append(f"cluster.gpus_per_process={share.gpus}")
        with writing(folder), self._output.open("ab") as log:
            self._ending.unlink(missing_ok=True)  # of an earlier start
            self._begin = log.tell()
            self.process = processes.start(
                command, share.cores, env=share.environ, stdout=log, stderr=subprocess.STDOUT
            )

    @property
    def last_line(self) -> str:
        """The last line of its output."""
        return (self._last_lines() or ["starting"])[-1]

    def stop(self) -> None:
        """Ask it once to save and to exit."""
        if not self.asked:
            self.asked = True
            self.process.send_signal(signal.SIGTERM)

    def end(self, warn: Callable[[str], object]) -> tuple[int, str | None]:
        """Note the end of the process, and return its exit code and its error.

        Where the file system refuses the note, it is a warning: other trials are at work.
        """
        code, error = self.process.returncode, None
        if code < 0:
            error = f"killed by {signal.Signals(-code).name}"
            early = self.asked and code == -signal.SIGTERM  # before it handled signals
            code = EXIT_RETRY if early else EXIT_INTERNAL
        elif code:
            lines = self._last_lines() or [f"exit code {code}"]
            errors = [line for line in lines if re.match("(error|stopped): ", line)] or lines
            error = re.sub("^(error|stopped): ", "", errors[-1])
        try:
            with writing(self._ending):
                write_json(self._ending, {"exit_code": code, "error": error})
        except TrainerError as refused:
            warn(refused.message)
        return code, error

    def _last_lines(self) -> list[str]:
        """Return the last lines that it has printed in this start; no empty ones."""
        try:
            with self._output.open("rb") as file:
                file.seek(max(self._begin, file.seek(0, os.SEEK_END) - 8192))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        return [" ".join(line.split()) for line in text.splitlines() if line.strip()]
