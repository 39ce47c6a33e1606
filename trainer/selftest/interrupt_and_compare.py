"""A run without interruptions, then runs that are interrupted at random instants: compared."""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

from trainer.config.compose import quoted
from trainer.job import processes
from trainer.job.errors import EXIT_COMPLETED, EXIT_RETRY, Preempted, TrainerError
from trainer.job.signals import StopRequest
from trainer.selftest import inspect
from trainer.selftest.children import Layout, handles_signals, started
from trainer.tracking import runs
from trainer.tracking.terminal import Terminal

PEER_SECONDS = 20.0  # from the loss of a process to the end of the others
MEET_SECONDS = 40.0  # the same before they have met: jax waits for its start-up timeout twice
END_SECONDS = 60.0  # from a signal that asks to stop to the end
RUN_SECONDS = 1800.0  # a whole start
PATIENCE = 3  # interruptions without progress; the next ones come later and later
PEER_OPTIONS = ("cluster.heartbeat_timeout_seconds=4", "cluster.startup_timeout_seconds=10")
COUNTS = ("interruptions", "chains", "restarts", "redone", "redone_at_most", "flipped", "set_aside")


class Broken(TrainerError):
    """Something that must hold does not; the message says what."""


def allowed_codes(number: signal.Signals, *, hit: bool, clean: bool) -> set[int]:
    """Return the exit codes that a process may end with after a signal. Pure.

    `hit`: the signal was sent to this process, and not only to others. `clean`: all to which it was
    sent could handle it, which is never the case for SIGKILL.
    """
    codes = {EXIT_COMPLETED}  # it may just have finished
    if clean:
        return codes | {EXIT_RETRY}
    if not hit:  # jax ends a process by SIGABRT itself where our heartbeat does not watch yet
        return codes | {EXIT_RETRY, -signal.SIGABRT}
    if number is signal.SIGKILL:
        return codes | {-number}
    return codes | {EXIT_RETRY, -number, 1}  # before Python handles signals, or after


class Proof:
    """The runs of a self-test, below one folder."""

    def __init__(
        self, args: argparse.Namespace, folder: Path, stop: StopRequest, terminal: Terminal
    ) -> None:
        """Prepare; `args` are those of the command line, checked."""
        self.args, self.folder = args, folder
        self.counts = dict.fromkeys(COUNTS, 0)
        self.by_signal, self.by_phase = Counter[str](), Counter[str]()  # interruptions
        self.by_layout = Counter[str]()  # starts
        self._stop, self._terminal = stop, terminal
        self._rng = random.Random(args.seed)  # noqa: S311  (not for secrets)
        self._seconds = 0.0  # of the latest start that ran from the beginning to the end
        self._idle = 0  # interruptions in a row without progress
        self._flipped: int | None = None  # step of a flipped checkpoint that no start has met yet
        (folder / "logs").mkdir()

    def run(self) -> dict[str, Any]:
        """Run the job unbroken, then interrupted until all is done or a difference appears.

        Returns the result, as JSON.

        Raises:
            TrainerError: the job fails on its own, or something that must hold does not.
            Preempted: a signal stopped this command; its children are ended.
        """
        began, unbroken = time.monotonic(), self.folder / "unbroken"
        self._terminal.note(f"unbroken run on {self.args.reference} in {self.folder}")
        self._one_start(unbroken, self.args.reference, interrupt=False)
        self._terminal.note(f"unbroken run: {self._seconds:.1f} s")
        expected = runs.last_summary(unbroken)
        self._seconds -= expected["seconds"]["compile"]  # later starts have the programs cached
        if len(inspect.committed(unbroken)) < 2:
            raise Broken("the unbroken run has fewer than 2 checkpoints: lower checkpoint.*")
        problems: list[str] = []
        while not problems and self.counts["interruptions"] < self.args.kills:
            broken = self._chain()
            problems = [f"{broken.name}: {line}" for line in inspect.differences(unbroken, broken)]
            verdict = "NOT equal" if problems else "equal"
            self._terminal.note(f"{broken.name} is completed and {verdict}")
        return {
            "proven": not problems,
            "differences": problems,
            **self.counts,
            **{name: getattr(self, name) for name in ("by_signal", "by_phase", "by_layout")},
            "wall_seconds": round(time.monotonic() - began, 1),
            "weights_sha256_unbroken": expected["weights_sha256"],
            "weights_sha256_interrupted": runs.last_summary(broken).get("weights_sha256"),
        }

    def _chain(self) -> Path:
        """Start a new run, interrupted, until it completes; return its directory."""
        args, counts = self.args, self.counts
        counts["chains"] += 1
        run = self.folder / f"broken-{counts['chains']}"
        self._idle, self._flipped, since_flip = 0, None, 0
        while True:
            layout, interrupt = self._rng.choice(args.layouts), counts["interruptions"] < args.kills
            if self._one_start(run, layout, interrupt):
                break
            counts["restarts"] += 1
            since_flip += 1
            if args.flip_every and since_flip >= args.flip_every and self._flip(run):
                since_flip = 0
        if args.flip_every and not counts["flipped"] and self._flip(run):
            self._one_start(run, layout, interrupt=False)  # no restart had two checkpoints
        return run

    def _one_start(self, run: Path, layout: Layout, interrupt: bool) -> bool:
        """Start the job, interrupt it or not, check its end; return whether it completed."""
        rng, counts = self._rng, self.counts
        if interrupt:  # all is drawn first, so that a seed means the same on any machine
            number, moment, everyone = rng.choice(self.args.signals), rng.random(), rng.random()
            victim = rng.randrange(layout.processes)
            victims = list(range(layout.processes)) if everyone < 0.5 else [victim]
            # Where start-up alone takes longer than the unbroken run did, only later instants help.
            seconds = moment * 1.1 * self._seconds * 1.5 ** max(0, self._idle - PATIENCE)
        self.by_layout[str(layout)] += 1
        prefix = self.folder / "logs" / f"{run.name}-start-{self.by_layout.total()}"
        logs = [Path(f"{prefix}-{index}.txt") for index in range(layout.processes)]
        overrides = [
            *self.args.overrides,
            *(PEER_OPTIONS if layout.processes > 1 else ()),
            f"parallel.devices={layout.devices}",
            f"run.dir={quoted(run)}",
            f"train.compilation_cache_dir={quoted(self.folder / 'cache')}",
        ]
        one_thread = max(each.devices for each in self.args.layouts) > 1
        what = "without a signal"

        def broken(problem: str, index: int = 0) -> Broken:
            lines = logs[index].read_text("utf-8", "replace").splitlines()[-12:]
            output = "".join(f"\n  | {line}" for line in lines)
            return Broken(f"{run.name} on {layout}, {what}: {problem}{output}\nsee {logs[index]}")

        expected = before = self._intact(run)
        began, began_at = time.monotonic(), time.time()
        with started(overrides, layout, logs, one_thread) as children:
            hit = not self._wait(run, children, seconds if interrupt else RUN_SECONDS)
            if hit and not interrupt:
                raise broken(f"did not complete in {RUN_SECONDS:g} s")
            if hit:
                before, trains = self._intact(run), inspect.step_reached(run, began_at)
                whom = f" to {victims} of {layout}" if layout != (1, 1) else ""
                what = f"{number.name}{whom} after {time.monotonic() - began:.2f} s"
                clean = number is not signal.SIGKILL
                for index in victims:
                    clean &= handles_signals(children[index].pid)
                    children[index].send_signal(number)
                limit = END_SECONDS if clean else PEER_SECONDS if trains else MEET_SECONDS
                if not self._wait(run, children, limit):
                    raise broken(f"did not end within {limit:g} s")
        ended, codes = time.monotonic(), [child.returncode for child in children]
        for index, code in enumerate(codes):
            allowed = allowed_codes(number, hit=index in victims, clean=clean) if hit else {0}
            if code not in allowed:
                error = broken(f"ended with {code}, not with one of {sorted(allowed)}", index)
                error.exit_code = code if not hit and code > 1 else error.exit_code
                raise error
        reached = inspect.step_reached(run, began_at)
        resumed = inspect.resumed_from(logs[0].read_text("utf-8", "replace"))
        if resumed is not None or reached is not None:  # else it did not get that far
            if resumed != expected:
                raise broken(f"resumed from {resumed}, not from {expected}")
            counts["set_aside"] += self._flipped is not None
            self._flipped = None
        after = self._intact(run)
        if (after or 0) < (before or 0):
            raise broken(f"had checkpoint {before} and now has {after}")
        if not hit and expected is None:
            self._seconds = ended - began
        if hit:
            redone = max(0, (reached or 0) - (after or 0))
            counts["interruptions"] += 1
            counts["redone"] += redone
            counts["redone_at_most"] = max(counts["redone_at_most"], redone)
            self.by_signal[number.name] += 1
            self.by_phase["training" if reached else "start-up"] += 1
            self._idle = 0 if (after or 0) > (expected or 0) else self._idle + 1
            where = f"at step {reached}" if reached else "in start-up"
            then = f"resumes from {after}" if after else "starts over"
            number_of = f"{counts['interruptions']}/{self.args.kills}"
            self._terminal.note(f"kill {number_of}: {what} {where}: {then}")
        return not any(codes)

    def _intact(self, run: Path) -> int | None:
        """Return the step of the newest committed checkpoint that was not flipped."""
        return max((s for s in inspect.committed(run) if s != self._flipped), default=None)

    def _flip(self, run: Path) -> bool:
        """Flip a bit of the newest checkpoint if another is left; return whether it was done."""
        steps = inspect.committed(run)
        if self._flipped is not None or len(steps) < 2:
            return False
        self._flipped = steps[-1]
        self._terminal.note(f"flipped a bit of {inspect.flip_bit(run, steps[-1], self._rng)}")
        self.counts["flipped"] += 1
        return True

    def _wait(self, run: Path, children: list[subprocess.Popen[bytes]], seconds: float) -> bool:
        """Wait until all have ended, at most so long; return whether they have."""
        began, done, kills = time.monotonic(), self.counts["interruptions"], self.args.kills

        def look() -> None:
            if self._stop():
                raise Preempted(f"{self._stop.signal_name} received: the children are ended")
            status = f"{done}/{kills} interruptions, this start {time.monotonic() - began:.0f} s"
            self._terminal.work(run.name, done, kills, status)

        return processes.wait(children, seconds, look)
