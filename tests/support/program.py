"""Starts the trainer as its users do."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trainer.job import processes

PROGRAM = (sys.executable, "-m", "trainer")

# The cache folder of the processes that tests start: pytest-xdist's workers inherit the variable.
if "TRAINER_TESTS_CACHE" not in os.environ:
    os.environ["TRAINER_TESTS_CACHE"] = tempfile.mkdtemp(prefix="trainer-tests-")
    atexit.register(shutil.rmtree, os.environ["TRAINER_TESTS_CACHE"], ignore_errors=True)
CACHE = Path(os.environ["TRAINER_TESTS_CACHE"])


class Trainer:
    """Starts `python -m trainer` as its users do: in a process of its own, in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []

    def start(
        self,
        *arguments: str,
        devices: int = 1,
        program: tuple[str, ...] = PROGRAM,
        **environ: str,
    ) -> subprocess.Popen[str]:
        """Start it and return at once."""
        root = Path(__file__).parents[2]
        flag = f"--xla_force_host_platform_device_count={devices}"
        simulated = {} if devices == 1 else {"XLA_FLAGS": flag}  # looking at flags takes 0.2 s
        process = subprocess.Popen(
            [*program, *arguments],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder.parent),
                "PYTHONPATH": str(root),
                "JAX_PLATFORMS": "cpu",
                "TRAINER_CACHE_DIR": str(CACHE),
                **simulated,
                **environ,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def __call__(
        self, *arguments: str, devices: int = 1, timeout: float = 120, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Start it, wait for its end, and return the code and what it printed."""
        process = self.start(*arguments, devices=devices, **environ)
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start_all(
        self,
        count: int,
        *arguments: str,
        devices: int = 1,
        program: tuple[str, ...] = PROGRAM,
        **environ: str,
    ) -> list[subprocess.Popen[str]]:
        """Start the processes of one run."""
        address = processes.free_address()
        return [
            self.start(
                *arguments,
                devices=devices,
                program=program,
                **processes.environment(environ, count, index, address),
            )
            for index in range(count)
        ]

    def wait_for_step(self, step: int, run: str = "run") -> None:
        """Wait until the log of a run shows a step."""
        path = self.folder / run / "metrics.jsonl"
        deadline = time.monotonic() + 240
        while not (path.exists() and f'"step": {step},' in path.read_text()):
            ended = [process for process in self.started if process.poll() is not None]
            if time.monotonic() > deadline or len(ended) == len(self.started):
                message = [process.communicate()[1] for process in ended]
                raise AssertionError(f"step {step} was not reached: {message}")
            time.sleep(0.01)

    def close(self) -> None:
        """End what still runs."""
        for process in self.started:
            process.kill()
            process.communicate()
