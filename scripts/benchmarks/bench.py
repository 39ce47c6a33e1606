"""What a section measures with: processes of their own, in turn, round after round."""

import itertools
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import measured
from benchmarks.figures import Result
from benchmarks.measured import ONE
from benchmarks.workers import find_answer
from trainer.selftest.children import Layout
from trainer.tracking import metrics

ROOT = Path(__file__).resolve().parents[2]
FAILED = "failed: "  # begins the reason why something was left out that should have worked


class Bench:
    """Starts what is measured, and knows the machine."""

    def __init__(
        self, quick: bool, rounds: int, overrides: list[str], torch_python: str, scratch: Path
    ) -> None:
        """Examine the machine, and write the data set out for the rivals.

        Args:
            quick: measure less of everything.
            rounds: of each measurement.
            overrides: options of the trainer, in everything of it that is measured.
            torch_python: a Python that may have PyTorch.
            scratch: a folder that the caller removes.

        Raises:
            measured.Failed: there is no data, or jax does not work.
        """
        self.quick, self.rounds, self.overrides = quick, rounds, overrides
        self.fewer_rounds = max(1, rounds - 1)  # for the sections that take longest
        self.section = ""  # its name, to show
        self.console = Console(width=None if sys.stdout.isatty() else 160)
        self.scratch, self._torch_python = scratch, torch_python
        self.arrays, self.xla_cache = str(scratch / "data"), str(scratch / "xla")
        self._numbers = itertools.count()
        self._warm = False
        self.machine = self.worker("parts.machine", folder=self.arrays, overrides=self.overrides)
        self.on_cpu = self.machine["platform"] == "cpu"
        self.cores: list[int] = self.machine["usable_cores"]
        self.times = 1 if self.on_cpu else 10  # as many epochs, where one takes milliseconds

    def say(self, text: str) -> None:
        """Print a line, as it is."""
        self.console.print(text, markup=False, highlight=False)

    def worker(self, name: str, *, layout: Layout = ONE, **arguments: Any) -> Result:
        """Call MODULE.FUNCTION of benchmarks.workers in a process of its own, or in several.

        Args:
            name: of the function.
            layout: how many processes, and simulated devices in each; the first one's answer is
                returned, with those of the others in "each".
            arguments: of the function, JSON.

        Raises:
            measured.Failed: it did not end well.
        """
        python = self._torch_python if name.startswith("torch") else sys.executable
        command = [python, "-m", "benchmarks.workers", name, json.dumps(arguments)]
        ended = measured.run(command, layout)
        answers = [find_answer(one.output) for one in ended]
        if answers[0] is None:
            raise measured.Failed(f"{name} gave no answer: {ended[0].output[-300:]}")
        return {**answers[0], "each": answers[1:], "peak_bytes": max(e.peak_bytes for e in ended)}

    def train(
        self,
        *overrides: str,
        layout: Layout = ONE,
        look: Callable[[Path], object] = lambda directory: None,
        read: Callable[[Path], Result] = lambda directory: {},
        experiment: Sequence[str] = ("+experiment=mlp",),
    ) -> Result:
        """Run `python -m trainer EXPERIMENT OVERRIDES`, as its users do.

        `look` is called with the run directory while it runs. Returns summary (summary.json),
        examples_per_second (trained), evaluations (points of the watched split), began (unix
        seconds), wall (seconds of the command), peak_bytes (of the largest process), and what
        `read` returns for the run directory at the end.

        Raises:
            measured.Failed: it did not end well.
        """
        directory = self.scratch / f"run-{next(self._numbers)}"
        command = [sys.executable, "-m", "trainer", *experiment, "run.quiet=true"]
        command += [f"run.dir={directory}", f"train.compilation_cache_dir={self.xla_cache}"]
        if not self.on_cpu and layout.processes == 1:
            command.append(f"parallel.devices={layout.devices}")  # of those that are there
        command += self.merged(overrides)
        try:
            ended = measured.run(command, layout, lambda: look(directory))
            points = metrics.read(directory / "metrics.jsonl")
            splits = {point["split"] for point in points}
            watched = "validation" if "validation" in splits else "test"
            summary = json.loads((directory / "summary.json").read_text())
            return {
                "summary": summary,
                "examples_per_second": summary["examples_per_second"],
                "evaluations": [point for point in points if point["split"] == watched],
                "began": ended[0].began,
                "wall": max(e.seconds for e in ended),
                "peak_bytes": max(e.peak_bytes for e in ended),
                **read(directory),
            }
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def merged(self, overrides: Sequence[str]) -> list[str]:
        """Return these options of the trainer after those of the command line that they leave."""
        replaced = {name_of(override) for override in overrides}
        kept = [override for override in self.overrides if name_of(override) not in replaced]
        return [*kept, *overrides]

    def warm_up(self) -> None:
        """Fill the compilation cache with the programs of the default options, once."""
        if not self._warm:
            self.once("filling the cache", lambda: self.train("train.epochs=1"))
            self._warm = True

    def command(self, *arguments: str) -> Result:
        """Run this Python with some arguments, and return {"wall": seconds}."""
        (ended,) = measured.run([sys.executable, *arguments])
        return {"wall": ended.seconds}

    def once(self, name: str, job: Callable[[], Result]) -> Result:
        """Do a single job in a single round."""
        return self.interleave({name: job}, rounds=1)[name][0]

    def interleave(
        self, jobs: Mapping[str, Callable[[], Result]], rounds: int | None = None
    ) -> dict[str, list[Result]]:
        """Do all jobs in turn, `rounds` times; one that fails is left out from then.

        In turn, because a shared machine is now fast and now slow: ratios hold all the same. Every
        other round goes backwards, so that no job always follows the same one.
        """
        rounds = self.rounds if rounds is None else rounds
        results: dict[str, list[Result]] = {name: [] for name in jobs}
        for number in range(rounds):
            for name, job in list(jobs.items())[:: -1 if number % 2 else 1]:
                if results[name] and "left_out" in results[name][-1]:
                    continue
                text = f"{self.section}, round {number + 1} of {rounds}: {name}"
                began = time.monotonic()
                with self.console.status(text, spinner="line"):  # on a terminal only
                    try:
                        results[name].append(job())
                    except measured.Failed as failure:
                        results[name].append({"left_out": f"{FAILED}{failure}"})
                if not self.console.is_terminal:
                    self.say(f"{text}: {time.monotonic() - began:.1f} s")
        return results


def name_of(override: str) -> str:
    """Return the option that an override sets."""
    return override.lstrip("+~").split("=")[0]
