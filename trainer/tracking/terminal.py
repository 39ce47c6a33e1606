"""What a person sees: one progress bar on a terminal, plain lines everywhere else."""

from __future__ import annotations

import atexit
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO


@dataclass
class Training:
    """A training, as it was last heard of."""

    total_steps: int
    step: int
    steps_per_epoch: int
    loss: float = math.nan
    accuracy: float = math.nan
    examples_per_second: float = math.nan
    watched_since: tuple[float, int] | None = None  # monotonic seconds and step of 1st update

    @property
    def epochs(self) -> int:
        """Epochs in all."""
        return -(-self.total_steps // self.steps_per_epoch)

    @property
    def epoch(self) -> str:
        """Which of them it is at, in words."""
        return f"epoch {max(-(-self.step // self.steps_per_epoch), 1)}/{self.epochs}"

    def status(self, separator: str) -> str:
        """Return loss, accuracy, speed and the time left."""
        if self.watched_since is None:
            return "compiling"
        # Not from the start on: the time before the first update is mostly compilation.
        began, first_step = self.watched_since
        done, left = self.step - first_step, self.total_steps - self.step
        duration = _duration((time.monotonic() - began) / done * left) if done > 0 else "-:--"
        return separator.join(
            (
                f"loss {self.loss:.4f}",
                f"acc {self.accuracy:.1%}",
                f"{_speed(self.examples_per_second)} examples/s",
                f"{duration} left",
            )
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _speed(number: float) -> str:
    """Return three digits or so: 950, 51.2k, 9.9M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


if TYPE_CHECKING:  # rich takes a while to import, and is needed only where something is drawn
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

_BAR_SECONDS = 0.1  # from one drawing of a bar to the next
_LINE_SECONDS = 10.0  # from one progress line to the next, where no bar is drawn


class Terminal:
    """Tells a person how a run goes. A stream that fails is written to no more; nothing is raised.

    Whether the stream is a terminal is decided once; with TERM=dumb or CI set it never is one.
    NO_COLOR takes the colours away and leaves the bar. Bars are drawn by the caller's own thread.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        """Write to `stream`; None: to what is standard error now.

        `quiet` leaves the warnings, the errors and the closing table.
        """
        self._stream: TextIO | None = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._draws = _is_terminal(self._stream)
        self._console: Console | None = None
        self._bar: Progress | None = None  # the one on the screen
        self._training: Training | None = None
        self._filename: str | None = None  # of the latest download
        self._label: str | None = None  # of the latest work
        self._next = 0.0  # monotonic seconds: no drawing or progress line before

    def note(self, text: str) -> None:
        """Write a line, above the bar if there is one."""
        if not self._quiet:
            self._line(text)

    def warn(self, text: str) -> None:
        """Write what is wrong but does not end the run, also when quiet."""
        self._line(text, "warning: ", "yellow")

    def error(self, text: str) -> None:
        """Write what ends the run, also when quiet."""
        self._line(text, "error: ", "bold red")

    def start(self, total_steps: int, initial_step: int, steps_per_epoch: int) -> None:
        """Show the progress of a training from now on; it goes from initial_step to total_steps."""
        self.close()
        if self._quiet:
            return
        self._training = Training(total_steps, initial_step, steps_per_epoch)
        self._next = time.monotonic() + _LINE_SECONDS
        if self._draws:
            with self._writing():
                from rich.progress import BarColumn, TextColumn

                label = TextColumn("{task.description}", markup=False)
                status = TextColumn("{task.fields[status]}", markup=False)
                self._open_bar(label, BarColumn(None), status)
                self._draw_training(self._training)

    def update(self, step: int, loss: float, accuracy: float, examples_per_second: float) -> None:
        """Show the state after `step` steps, unless it was shown just before.

        Args:
            step: done so far.
            loss: mean over the examples of this epoch.
            accuracy: fraction of them, 0 to 1.
            examples_per_second: trained.
        """
        training, now = self._training, time.monotonic()
        if training is None:
            return
        training.step, training.loss, training.accuracy = step, loss, accuracy
        training.examples_per_second = examples_per_second
        training.watched_since = training.watched_since or (now, step)
        if now < self._next:
            return
        if self._draws:
            with self._writing():
                self._draw_training(training)
        else:
            self._next = now + _LINE_SECONDS
            position = f"{training.epoch}  step {step}/{training.total_steps}"
            self._line(f"{position}  {training.status('  ')}")

    def evaluation(
        self,
        epoch: int,
        step: int,
        train_loss: float,
        test_loss: float,
        test_accuracy: float,
        seconds: float,
    ) -> None:
        """Write the line of one evaluation: where, the results (accuracy 0 to 1), how long.

        The training loss is NaN where no step of the epoch was done by this start of the run.
        """
        total, epochs = step, epoch
        if self._training is not None:
            total, epochs = self._training.total_steps, self._training.epochs
        trained = "     -" if math.isnan(train_loss) else f"{train_loss:6.4f}"
        self.note(
            f"epoch {epoch:{len(str(epochs))}}  step {step:{len(str(total))}}  "
            f"train loss {trained}  test loss {test_loss:6.4f}  "
            f"test accuracy {test_accuracy:6.2%}  {seconds:.2f} s"
        )

    def download(self, filename: str, done: int, total: int | None) -> None:
        """Show how much of a file is there, in bytes; `total` is None while it is unknown."""
        if self._quiet:
            return
        fresh = filename != self._filename
        self._filename = filename
        if not self._draws:
            size = f" ({total / 1e6:.1f} MB)" if total else ""
            if fresh:
                self._line(f"downloading {filename}{size}")
            elif time.monotonic() >= self._next:
                self._line(f"downloading {filename}{size}: {done / 1e6:.1f} MB are here")
            else:
                return
            self._next = time.monotonic() + _LINE_SECONDS
            return
        complete = done == total
        with self._writing():
            if fresh or (self._bar is None and not complete):
                from rich.progress import BarColumn, DownloadColumn, TextColumn

                label = TextColumn("{task.description}", markup=False)
                self.close()
                self._open_bar(label, BarColumn(None), DownloadColumn())
            if self._bar is not None and (complete or time.monotonic() >= self._next):
                self._draw(f"downloading {filename}", done, total)
            if complete:
                self.close()

    def work(self, label: str, done: int, total: int, status: str) -> None:
        """Show how much of some work is done, on a bar that close() ends.

        Args:
            label: of the part at work.
            done: parts, before this one; when it is done, with it.
            total: parts.
            status: how far this part is; empty: it is done.
        """
        fresh = label != self._label
        self._label = label
        if self._quiet:
            return
        if not self._draws:
            if status and (fresh or time.monotonic() >= self._next):
                self._line(f"{label}: {status}")
                self._next = time.monotonic() + _LINE_SECONDS
            return
        with self._writing():
            if self._bar is None:
                from rich.progress import BarColumn, TextColumn

                name = TextColumn("{task.description}", markup=False)
                text = TextColumn("{task.fields[status]}", markup=False)
                self._open_bar(name, BarColumn(20), text)
            if not status or time.monotonic() >= self._next:
                self._draw(label, done, total, status)

    def summary(self, rows: Sequence[tuple[str, str]]) -> None:
        """Write the closing table: (what, how much); also when quiet."""
        self.close()
        width = max((len(name) for name, _ in rows), default=0)
        for name, value in rows:
            self._line(value, f"{name:{width}}  ", "bold")

    def close(self) -> None:
        """Leave the bar on the screen as it is; may be called twice, and start() may follow."""
        training, self._training = self._training, None
        if self._bar is not None:
            with self._writing():
                if training is not None:
                    self._draw_training(training)
            self._close_bar()

    def _line(self, text: str, label: str = "", style: str = "") -> None:
        with self._writing():
            if self._draws:
                from rich.text import Text

                self._rich().print(Text.assemble((label, style), text), soft_wrap=True)
            elif self._stream is not None:
                self._stream.write(f"{label}{text}\n")
                self._stream.flush()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Fall silent for good when the stream is closed, or nobody reads it any more."""
        try:
            yield
        except (OSError, ValueError):
            self._stream, self._draws = None, False
            self._close_bar()

    def _rich(self) -> Console:
        if self._console is None:
            from rich.console import Console

            self._console = Console(file=self._stream, force_terminal=True)
        return self._console

    def _open_bar(self, *columns: ProgressColumn) -> None:
        from rich.progress import Progress

        self._bar = Progress(
            *columns,
            console=self._rich(),
            auto_refresh=False,  # no thread
            expand=True,
            redirect_stdout=False,  # it may be a file
            redirect_stderr=self._stream is sys.stderr,
        )
        self._bar.add_task("", status="")
        self._next = 0.0
        atexit.register(self._close_bar)  # the bar hides the cursor: bring it back in any case

    def _close_bar(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            atexit.unregister(self._close_bar)
            with suppress(OSError, ValueError):
                bar.stop()

    def _draw_training(self, training: Training) -> None:
        step, total = training.step, training.total_steps
        self._draw(training.epoch, step, total, f"{step}/{total} {training.status(' ')}")

    def _draw(self, label: str, done: int, total: int | None, status: str = "") -> None:
        if self._bar is not None:
            task = self._bar.task_ids[0]
            self._bar.update(task, description=label, completed=done, total=total, status=status)
            self._bar.start()  # does nothing once it has started
            self._bar.refresh()
            self._next = time.monotonic() + _BAR_SECONDS


def _is_terminal(stream: TextIO | None) -> bool:
    if stream is None or stream.closed or os.environ.get("TERM") == "dumb":
        return False
    return os.environ.get("CI", "") in ("", "0", "false") and stream.isatty()
