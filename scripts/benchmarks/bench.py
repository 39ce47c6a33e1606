"""What a section measures with: its own processes, in turn, round after round."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import answer, processes
from benchmarks.progress import Progress
from trainer.job.processes import free_address
from trainer.selftest.children import Layout, environment
from trainer.tracking import metrics

ROOT = Path(__file__).resolve().parents[2]
ONE = Layout(1, 1)
TIMEOUT = 600  # seconds, of what is measured
FAILED = "failed: "  # begins the reason why something was left out that should have worked

Result = dict[str, Any]  # JSON; {"left_out": reason} where a measurement was not possible


class Settings(NamedTuple):
    """What was asked for on the command line, as far as figures depend on it."""

    quick: bool
    rounds: int
    overrides: list[str]  # of the trainer's options, in everything of it that is measured


class Bench:
    """Starts what is measured, and knows the machine."""

    def __init__(
        self, settings: Settings, scratch: Path, torch_python: str, progress: Progress
    ) -> None:
        """Find out about the machine, and lay the data out for the rivals.

        Args:
            settings: what was asked for.
            scratch: a folder for what is needed in between; the caller removes it.
            torch_python: the Python that may have PyTorch.
            progress: is told what is being measured.

        Raises:
            processes.Failed: there is no data, or jax does not work.
        """
        self.quick, self.rounds = settings.quick, settings.rounds
        self.fewer_rounds = max(1, settings.rounds - 1)  # for the sections that take longest
        self.scratch, self.progress = scratch, progress
        self._torch_python = torch_python
        self.overrides = settings.overrides
        self.arrays = str(scratch / "data")
        self.xla_cache = str(scratch / "xla")
        self._numbers = itertools.count()
        self._warm = False
        self.machine = self.worker("machine", folder=self.arrays, overrides=self.overrides)
        self.on_cpu = self.machine["platform"] == "cpu"
        self.cores: list[int] = self.machine["usable_cores"]
        self.times = 1 if self.on_cpu else 10  # as many epochs, where one takes milliseconds

    def worker(
        self,
        name: str,
        *,
        layout: Layout = ONE,
        only_cores: list[int] | None = None,
        **arguments: Any,
    ) -> Result:
        """Run benchmarks.workers.NAME in its own process (or several), and return its answer.

        Args:
            name: of the module.
            layout: how many processes, and simulated devices in each; the first one's answer is
                returned, with those of the others in "each".
            only_cores: of the processor, that it may use; None: all.
            arguments: of the worker, JSON.

        Raises:
            processes.Failed: it did not end well.
        """
        python = self._torch_python if name == "torch_loop" else sys.executable
        command = [python, "-m", f"benchmarks.workers.{name}", json.dumps(arguments)]
        if only_cores is not None:
            if not shutil.which("taskset"):
                return {"left_out": "needs the program taskset"}
            command = ["taskset", "--cpu-list", ",".join(map(str, only_cores)), *command]
        ended = processes.run(command, self._environments(layout), TIMEOUT)
        answers = [answer.find(one.output) for one in ended]
        if answers[0] is None:
            raise processes.Failed(f"{name} gave no answer: {ended[0].output[-300:]}")
        peak_bytes = max(one.peak_bytes for one in ended)
        return {**answers[0], "each": answers[1:], "peak_bytes": peak_bytes}

    def train(
        self,
        *overrides: str,
        layout: Layout = ONE,
        look: Callable[[Path], object] = lambda directory: None,
        read: Callable[[Path], Result] = lambda directory: {},
    ) -> Result:
        """Run `python -m trainer +experiment=mlp OVERRIDES`, as its users do.

        Args:
            overrides: after those of the command line; of the same option, these count.
            layout: processes and simulated devices in each.
            look: called with the run directory every few milliseconds.
            read: called with it at the end; what it returns is added.

        Returns summary (summary.json), points (of metrics.jsonl), began (unix seconds), wall
        (seconds of the command) and peak_bytes (of the largest process).

        Raises:
            processes.Failed: it did not end well.
        """
        directory = self.scratch / f"run-{next(self._numbers)}"
        replaced = {name_of(override) for override in overrides}
        kept = [override for override in self.overrides if name_of(override) not in replaced]
        command = [sys.executable, "-m", "trainer", "+experiment=mlp", *kept, "run.quiet=true"]
        command += [f"run.dir={directory}", f"train.compilation_cache_dir={self.xla_cache}"]
        if not self.on_cpu and layout.processes == 1:
            command.append(f"parallel.devices={layout.devices}")  # of those that are there
        try:
            ended = processes.run(
                [*command, *overrides],
                self._environments(layout),
                TIMEOUT,
                lambda: look(directory),
            )
            return {
                "summary": json.loads((directory / "summary.json").read_text()),
                "points": metrics.read(directory / "metrics.jsonl"),
                "began": ended[0].began,
                "wall": max(e.seconds for e in ended),
                "peak_bytes": max(e.peak_bytes for e in ended),
                **read(directory),
            }
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def warm_up(self) -> None:
        """Fill the compilation cache with the programs of the default options, once."""
        if not self._warm:
            self.interleave({"filling the cache": lambda: self.train("train.epochs=1")}, rounds=1)
            self._warm = True

    def command(self, *command: str) -> Result:
        """Run a command of this Python, and return {"wall": seconds, "peak_bytes": bytes}."""
        ended = processes.run([sys.executable, *command], self._environments(ONE), 120)[0]
        return {"wall": ended.seconds, "peak_bytes": ended.peak_bytes}

    def interleave(
        self, jobs: Mapping[str, Callable[[], Result]], rounds: int | None = None
    ) -> dict[str, list[Result]]:
        """Do all jobs in turn, as many rounds as asked for; a job that fails is left out from then.

        In turn, because a shared machine is now fast and now slow: ratios hold all the same. Every
        other round goes backwards, so that no job always follows the same one.
        """
        rounds = self.rounds if rounds is None else rounds
        results: dict[str, list[Result]] = {name: [] for name in jobs}
        for number in range(rounds):
            for name, job in list(jobs.items())[:: -1 if number % 2 else 1]:
                if results[name] and "left_out" in results[name][-1]:
                    continue
                with self.progress.job(name, number + 1, rounds):
                    results[name].append(attempt(job))
        return results

    def _environments(self, layout: Layout) -> list[dict[str, str]]:
        """Return the variables of each process; simulated devices have one thread each."""
        address, one_thread = free_address(), layout.devices > 1
        return [
            {**environment(os.environ, layout, i, address, one_thread), "PYTHONPATH": PATHS}
            for i in range(layout.processes)
        ]


PATHS = os.pathsep.join(
    [str(ROOT), str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
)


def name_of(override: str) -> str:
    """Return the option that an override is of."""
    return override.lstrip("+~").split("=")[0]


def attempt(job: Callable[[], Result]) -> Result:
    """Do a job; where it fails, return the reason."""
    try:
        return job()
    except processes.Failed as failure:
        return {"left_out": f"{FAILED}{failure}"}
