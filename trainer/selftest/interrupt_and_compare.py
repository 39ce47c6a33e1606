"""A run without interruptions, then runs that are interrupted at random instants: compared."""

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path
from signal import SIGABRT, SIGKILL, Signals
from subprocess import Popen
from typing import Any, NamedTuple

from trainer.config.compose import quoted
from trainer.job import processes
from trainer.job.errors import EXIT_COMPLETED, EXIT_INTERNAL, EXIT_RETRY, TrainerError
from trainer.job.signals import StopRequest
from trainer.selftest import inspect
from trainer.selftest.children import Layout, handles_signals, started
from trainer.tracking import runs
from trainer.tracking.terminal import Terminal

PROGRAM = (sys.executable, "-m", "trainer")
PEER_SECONDS = 20.0  # from the loss of a process to the end of the others
MEET_SECONDS = 40.0  # the same before they have met: jax waits for its start-up timeout twice
END_SECONDS = 60.0  # from a signal that asks to stop to the end
PEER_OPTIONS = ("cluster.heartbeat_timeout_seconds=4", "cluster.startup_timeout_seconds=10")
COUNTS = ("chains", "restarts", "flipped", "set_aside")


class Interruption(NamedTuple):
    """A signal for one start, drawn before it, so that a seed means the same on any machine."""

    signal: Signals
    victims: list[int]  # the processes that get it
    seconds: float  # after the start


def allowed_codes(hit: Interruption | None, index: int, clean: bool) -> set[int]:
    """Return the exit codes that process `index` may end with after a signal, or without one. Pure.

    `clean`: all to which it was sent could handle it, which is never the case for SIGKILL.
    """
    if not hit:
        return {EXIT_COMPLETED}
    victim = index in hit.victims
    if victim and hit.signal is SIGKILL:
        return {EXIT_COMPLETED, -SIGKILL}  # it may just have finished
    codes = {EXIT_COMPLETED, EXIT_RETRY}
    if not clean and victim:
        codes |= {-hit.signal, 1}  # before Python handles signals, or after
    elif not clean:
        codes |= {-SIGABRT}  # jax ends a process itself where our heartbeat does not watch yet
    return codes


class Proof:
    """The runs of a self-test, below one folder."""

    def __init__(
        self, args: argparse.Namespace, folder: Path, stop: StopRequest, terminal: Terminal
    ) -> None:
        """Prepare; `args` are those of the command line, checked."""
        self.args, self.folder = args, folder
        self.counts, self.by_layout = dict.fromkeys(COUNTS, 0), Counter[str]()  # of starts
        # Of each interruption: its signal, the last step logged, and that of the checkpoint left.
        self.interruptions: list[tuple[str, int, int]] = []
        self._stop, self._terminal = stop, terminal
        self._rng = random.Random(args.seed)  # noqa: S311  (not for secrets)
        self._seconds = 0.0  # of a whole start with compiled programs
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
        self._start(unbroken, self.args.reference)
        seconds, expected = time.monotonic() - began, runs.last_summary(unbroken)
        self._terminal.note(f"unbroken run: {seconds:.1f} s")
        self._seconds = seconds - expected["seconds"]["compile"]  # all later starts have them
        if len(inspect.committed(unbroken)) < 2:
            raise TrainerError("the unbroken run has fewer than 2 checkpoints: lower checkpoint.*")
        problems: list[str] = []
        while not problems and len(self.interruptions) < self.args.kills:
            broken = self._chain()
            problems = [f"{broken.name}: {line}" for line in inspect.differences(unbroken, broken)]
            verdict = "NOT equal" if problems else "equal"
            self._terminal.note(f"{broken.name} is completed and {verdict}")
        if not any(0 < reached < expected["steps"] for _, reached, _ in self.interruptions):
            hint = "add --kills, or give it more train.epochs"
            self._terminal.warn(f"no interruption came between the first and the last step: {hint}")
        redone = [max(0, reached - after) for _, reached, after in self.interruptions]
        phases = ("training" if reached else "start-up" for _, reached, _ in self.interruptions)
        return {
            "proven": not problems,
            "differences": problems,
            "interruptions": len(redone),
            **self.counts,
            "redone": sum(redone),
            "redone_at_most": max(redone, default=0),
            "by_signal": Counter(name for name, _, _ in self.interruptions),
            "by_phase": Counter(phases),
            "by_layout": self.by_layout,
            "wall_seconds": round(time.monotonic() - began, 1),
            "weights_sha256_unbroken": expected["weights_sha256"],
            "weights_sha256_interrupted": runs.last_summary(broken).get("weights_sha256"),
        }

    def _chain(self) -> Path:
        """Start a new run, interrupted, until it completes; return its directory."""
        args, counts = self.args, self.counts
        counts["chains"] += 1
        run = self.folder / f"broken-{counts['chains']}"
        self._flipped, completed = None, False
        while not completed:
            layout = self._rng.choice(args.layouts)
            shard_state = self._rng.choice(args.shard_states) if args.shard_states else None
            interrupt = len(self.interruptions) < args.kills
            hit = self._draw(layout) if interrupt else None
            completed = self._start(run, layout, hit, shard_state)
            counts["restarts"] += not completed
            if args.flip_every and not completed and counts["restarts"] % args.flip_every == 0:
                self._flip(run)
        if args.flip_every and not counts["flipped"] and self._flip(run):
            self._start(run, layout, None, shard_state)  # no restart had two checkpoints
        return run

    def _draw(self, layout: Layout) -> Interruption:
        number, moment = Signals[f"SIG{self._rng.choice(self.args.signals)}"], self._rng.random()
        everyone, victim = self._rng.random() < 0.5, self._rng.randrange(layout.processes)
        victims = list(range(layout.processes)) if everyone else [victim]
        # Up to a tenth later than the usual end: the last moments of a start are hit, too.
        return Interruption(number, victims, moment * 1.1 * self._seconds)

    def _start(
        self,
        run: Path,
        layout: Layout,
        hit: Interruption | None = None,
        shard_state: str | None = None,
    ) -> bool:
        """Start the job, interrupt it if it runs that long, and check all that must hold then.

        Returns whether it completed.
        """
        self.by_layout[f"{layout} {shard_state}" if shard_state else str(layout)] += 1
        prefix = f"{run.name}-start-{self.by_layout.total()}"
        logs = [self.folder / "logs" / f"{prefix}-{i}.txt" for i in range(layout.processes)]
        command = [
            *PROGRAM,
            *self.args.overrides,
            *(PEER_OPTIONS if layout.processes > 1 else ()),
            f"parallel.devices={layout.devices}",
            *([f"parallel.shard_state={shard_state}"] if shard_state else ()),
            f"run.dir={quoted(run)}",
            f"train.compilation_cache_dir={quoted(self.folder / 'cache')}",
        ]
        most = max(each.devices for each in [self.args.reference, *self.args.layouts])
        clean, what = True, "without a signal"

        def check(holds: bool, problem: str, index: int = 0, code: int = EXIT_INTERNAL) -> None:
            if not holds:
                output = "\n".join(logs[index].read_text("utf-8", "replace").splitlines()[-12:])
                where = f"{run.name} on {layout}, {what}"
                error = TrainerError(f"{where}: {problem}\n{output}\nsee {logs[index]}")
                error.exit_code = code
                raise error

        expected = before = self._intact(run)
        began = time.time()
        with started(command, layout, logs, most) as children:
            if self._wait(run, children, hit and hit.seconds):
                hit = None  # it ended before
            if hit:
                before, trains = self._intact(run), inspect.step_reached(run, began)
                whom = f" to {hit.victims} of {layout}" if layout != (1, 1) else ""
                what = f"{hit.signal.name}{whom} after {hit.seconds:.2f} s"
                clean = hit.signal is not SIGKILL
                for child in (children[index] for index in hit.victims):
                    clean &= handles_signals(child.pid)
                    child.send_signal(hit.signal)
                limit = END_SECONDS if clean else PEER_SECONDS if trains else MEET_SECONDS
                check(self._wait(run, children, limit), f"did not end within {limit:g} s")
        for index, code in enumerate(child.returncode for child in children):
            allowed = allowed_codes(hit, index, clean)
            own = EXIT_INTERNAL if hit or code <= 1 else code
            problem = f"ended with {code}, not with one of {sorted(allowed)}"
            check(code in allowed, problem, index, own)
        reached = inspect.step_reached(run, began)
        resumed = inspect.resumed_from(logs[0].read_text("utf-8", "replace"))
        if resumed is not None or reached is not None:  # else it did not get that far
            check(resumed == expected, f"resumed from {resumed}, not from {expected}")
            self.counts["set_aside"] += self._flipped is not None
            self._flipped = None
        after = self._intact(run)
        check((after or 0) >= (before or 0), f"had checkpoint {before} and now has {after}")
        if hit:
            self.interruptions.append((hit.signal.name, reached or 0, after or 0))
            number = f"{len(self.interruptions)}/{self.args.kills}"
            where = f"at step {reached}" if reached else "in start-up"
            then = f"resumes from {after}" if after else "starts over"
            self._terminal.note(f"kill {number}: {what} {where}: {then}")
        return not any(child.returncode for child in children)

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

    def _wait(self, run: Path, children: list[Popen[bytes]], seconds: float | None) -> bool:
        """Wait until all have ended, at most so long; return whether they have."""
        began, done, kills = time.monotonic(), len(self.interruptions), self.args.kills

        def look() -> None:
            self._stop.check("the children are ended")
            status = f"{done}/{kills} interruptions, this start {time.monotonic() - began:.0f} s"
            self._terminal.work(run.name, done, kills, status)

        return processes.wait(children, seconds, look)
