"""A run that is ended at random instants and started again, with all that has to hold checked."""

from __future__ import annotations

import random
import signal
from pathlib import Path

from trainer.config.compose import quoted
from trainer.job.errors import TrainerError
from trainer.job.signals import StopRequest
from trainer.selftest import inspect
from trainer.selftest.children import Children, Layout
from trainer.selftest.report import Broken, Options, Tally, allowed_codes
from trainer.tracking.terminal import Terminal

PEER_SECONDS = 20.0  # from the loss of a process to the end of the others
# Before they have met, jax waits its start-up timeout twice, from when each gets so far.
MEET_SECONDS = 40.0
END_SECONDS = 60.0  # from a signal that asks to stop to the end
RUN_SECONDS = 1800.0  # a whole start
PATIENCE = 3  # interruptions without progress, until the next waits for a checkpoint
PEER_OPTIONS = ("cluster.heartbeat_timeout_seconds=4", "cluster.startup_timeout_seconds=10")


class Proof:
    """Runs the job, once without and then with interruptions."""

    def __init__(
        self, options: Options, folder: Path, stop: StopRequest, terminal: Terminal
    ) -> None:
        """Describe the proof; it writes below `folder`."""
        self.options, self.folder = options, folder
        self.tally = Tally()
        self._stop, self._terminal = stop, terminal
        self._rng = random.Random(options.seed)  # noqa: S311  (not for secrets)
        self._starts = 0
        self._duration = self._first_checkpoint = 0.0  # seconds, of the unbroken run
        self._evaluations: frozenset[int] = frozenset()  # steps of it
        self._idle = 0  # interruptions in a row without progress
        self._flipped: int | None = None  # step of the flipped checkpoint not yet set aside
        self._aside = 0  # checkpoints of the chain that were set aside
        self._logs: list[Path] = []  # of the latest start
        (folder / "logs").mkdir(parents=True, exist_ok=True)

    def unbroken(self) -> Path:
        """Run the job to its end, measure it, and return its directory.

        Raises:
            TrainerError: it failed, with its exit code.
            Preempted: asked to stop.
        """
        run = self.folder / "unbroken"
        with self._start(run, self.options.reference) as children:

            def look() -> None:
                self._note_checkpoint(run, children)
                self._show(run, children)

            ended = children.wait(RUN_SECONDS, look)
            self._duration = children.seconds
        codes = [code for code in children.codes if code]
        if not ended or codes:
            error = TrainerError(f"the unbroken run failed:\n{self._tail()}")
            if codes and codes[0] > 1:
                error.exit_code = codes[0]
            raise error
        self._evaluations = inspect.evaluated(run)
        # Later starts find the programs compiled.
        spent = inspect.summary(run).get("seconds") or {}
        self._duration -= spent.get("compile", 0.0)
        if len(inspect.committed(run)) < 2:
            raise Broken("the unbroken run has fewer than 2 checkpoints: lower checkpoint.*")
        return run

    def chain(self) -> Path:
        """Interrupt a new run until it, or the number of interruptions, is complete.

        Returns its directory.

        Raises:
            Broken: something that has to hold does not.
            Preempted: asked to stop.
        """
        run = self.folder / f"broken-{self.tally.chains + 1}"
        self._idle, self._flipped, self._aside = 0, None, 0
        since_flip = 0
        while not self._one_start(run):
            self.tally.restarts += 1
            since_flip += 1
            every = self.options.flip_every
            if every and since_flip >= every and self._flip(run):
                since_flip = 0
        if self.options.flip_every and not self.tally.flipped and self._flip(run):
            self.tally.restarts += 1  # no restart had two checkpoints: flip the last of the run
            self._one_start(run, unbroken=True)
        if self._flipped is not None:
            raise Broken(f"{run}: the flipped checkpoint {self._flipped} was not set aside")
        self.tally.chains += 1
        return run

    def _one_start(self, run: Path, *, unbroken: bool = False) -> bool:
        """Start the job, end it at random, check everything; return whether it is completed."""
        rng, tally = self._rng, self.tally
        # Drawn before anything is measured, so that a seed means the same on any machine.
        layout, number = rng.choice(self.options.layouts), rng.choice(self.options.signals)
        moment, everyone = rng.random(), rng.random() < 0.5
        victim = rng.randrange(layout.processes)
        victims = list(range(layout.processes)) if everyone else [victim]
        last = unbroken or tally.interruptions >= self.options.kills
        delay = RUN_SECONDS if last else self._delay(moment)
        expected = self._intact(run)
        children = self._start(run, layout)
        with children:
            hit = not children.wait(delay, lambda: self._show(run, children))
            if last and hit:
                raise Broken(f"{run}: not completed after {RUN_SECONDS:g} s:\n{self._tail()}")
            if hit:
                before = self._intact(run)
                phase = inspect.phase(run, children.began_at, self._evaluations)
                seconds, clean = children.seconds, number is not signal.SIGKILL
                for index in victims:
                    clean &= children.listening(index)
                    children.send(index, number)
                lost = MEET_SECONDS if phase == "start-up" else PEER_SECONDS
                limit = END_SECONDS if clean else lost
                sent = children.seconds
                if not children.wait(limit):
                    raise Broken(
                        f"{layout}, {number.name} to {victims} in {phase}: not all processes "
                        f"ended within {limit:g} s, codes {children.codes}:\n{self._tail()}"
                    )
                if not clean and len(victims) < layout.processes:
                    tally.slowest_peer = max(tally.slowest_peer, children.seconds - sent)
        codes = [code for code in children.codes if code is not None]
        self._check_resumption(run, children, expected)
        if not hit:
            if any(codes):
                raise Broken(f"{layout}: ended by itself with {codes}:\n{self._tail()}")
            if expected is None and layout == self.options.reference:
                self._duration = children.seconds  # the machine is busier or idler than before
            return True
        self._check_codes(codes, victims, number, clean, phase)
        after = self._intact(run)
        if (after or 0) < (before or 0):
            raise Broken(
                f"{run}: checkpoint {before} was committed, after the end there is {after}"
            )
        reached = inspect.step_reached(run, children.began_at)
        tally.interruptions += 1
        tally.by_signal[number.name] += 1
        tally.by_phase[phase] += 1
        redone = max(0, (reached or 0) - (after or 0))
        tally.redone += redone
        tally.redone_at_most = max(tally.redone_at_most, redone)
        self._idle = 0 if (after or 0) > (expected or 0) else self._idle + 1
        whom = "" if layout.processes == 1 else f" to {'all' if everyone else f'process {victim}'}"
        self._terminal.note(
            f"kill {tally.interruptions}/{self.options.kills}: {number.name}{whom} after "
            f"{seconds:.2f} s in {phase}"
            + (f" at step {reached}" if reached is not None else "")
            + (f" on {layout}" if len(self.options.layouts) > 1 else "")
            + (f": goes on from {after}" if after else ": begins anew")
        )
        return not any(codes)

    def _delay(self, moment: float) -> float:
        """Return when to interrupt, in seconds; `moment` in [0, 1) is where in the range."""
        low, high = 0.0, 1.1 * self._duration
        if self._idle >= PATIENCE:  # start-up alone is longer than what was drawn: let it get on
            low = self._first_checkpoint * 1.5 ** (self._idle - PATIENCE)
            high = max(high, 2 * low)
        return low + moment * (high - low)

    def _check_codes(
        self,
        codes: list[int],
        victims: list[int],
        number: signal.Signals,
        clean: bool,
        phase: str,
    ) -> None:
        """Check how the processes ended.

        Raises:
            Broken: with a code that means something else.
        """
        for index, code in enumerate(codes):
            hit = index in victims
            if not clean and not hit:
                self.tally.peer_ends[str(code)] += 1
            allowed = allowed_codes(number, hit=hit, clean=clean)
            if code not in allowed:
                raise Broken(
                    f"process {index} ended with {code} after {number.name} to {victims} in "
                    f"{phase}, not with one of {sorted(allowed)}:\n{self._tail(index)}"
                )

    def _check_resumption(self, run: Path, children: Children, expected: int | None) -> None:
        """Check that a start went on from the newest intact checkpoint.

        Raises:
            Broken: from another one, or from the beginning.
        """
        resumed = inspect.resumed_from(self._logs[0].read_text(errors="replace"))
        trained = inspect.step_reached(run, children.began_at) is not None
        aside = inspect.set_aside(run).total()
        if aside > self._aside:
            self.tally.set_aside += aside - self._aside
            self._aside, self._flipped = aside, None
        if (resumed is not None or trained) and resumed != expected:
            raise Broken(f"{run}: resumed from {resumed}, not from {expected}:\n{self._tail()}")

    def _intact(self, run: Path) -> int | None:
        """Return the step of the newest committed checkpoint that was not flipped."""
        return max((s for s in inspect.committed(run) if s != self._flipped), default=None)

    def _flip(self, run: Path) -> bool:
        """Flip a bit of the newest checkpoint; not where no other would be left, or one waits."""
        steps = inspect.committed(run)
        if self._flipped is not None or len(steps) < 2:
            return False
        self._flipped = steps[-1]
        name = inspect.flip_bit(run, steps[-1], self._rng)
        self.tally.flipped += 1
        self._terminal.note(f"flipped a bit of {name}")
        return True

    def _start(self, run: Path, layout: Layout) -> Children:
        self._starts += 1
        self.tally.by_layout[str(layout)] += 1
        folder = self.folder / "logs"
        names = [f"{run.name}-start-{self._starts}-{i}.txt" for i in range(layout.processes)]
        self._logs = [folder / name for name in names]
        overrides = [
            *self.options.overrides,
            *(PEER_OPTIONS if layout.processes > 1 else ()),
            f"parallel.devices={layout.devices}",
            f"run.dir={quoted(run)}",
            f"train.compilation_cache_dir={quoted(self.folder / 'cache')}",
        ]
        one_thread = max(each.devices for each in self.options.layouts) > 1
        return Children(overrides, layout, self._logs, self._stop, one_thread)

    def _note_checkpoint(self, run: Path, children: Children) -> None:
        if not self._first_checkpoint and inspect.committed(run):
            self._first_checkpoint = children.seconds

    def _show(self, run: Path, children: Children) -> None:
        done, kills = self.tally.interruptions, self.options.kills
        status = f"{done}/{kills} interruptions, this start {children.seconds:.0f} s"
        self._terminal.work(run.name, done, kills, status)

    def _tail(self, process_id: int = 0) -> str:
        """Return the last lines that a process of this start printed, and where the rest is."""
        path = self._logs[process_id]
        lines = path.read_text(errors="replace").splitlines()[-12:]
        return "\n".join([*(f"  | {line}" for line in lines), f"  all of it: {path}"])
