"""What a person sees: one progress bar on a terminal, plain lines everywhere else."""

import atexit
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

_BAR_SECONDS = 0.1  # between two drawings of a bar
_LINE_SECONDS = 10.0  # between two progress lines


class _Console(Console):
    @property
    def options(self) -> ConsoleOptions:
        """Leave room for the ^C that a terminal adds to a bar: if it wraps, an old bar stays."""
        options = super().options
        return options.update(max_width=options.max_width - len("^C"))

    def on_broken_pipe(self) -> None:
        """Become silent; rich would end the process."""
        self.quiet = True


class _Bar(Progress):
    """A bar, and lines of text below it."""

    lines: Sequence[Text] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return what is drawn."""
        yield from super().get_renderables()
        yield from self.lines


class Terminal:
    """Shows the progress of a run. A stream that fails gets no more text; nothing raises.

    With TERM=dumb or CI set there is no bar; NO_COLOR keeps it. The caller's thread draws it.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        """Write to `stream` or standard error; if `quiet`, only warnings, errors, the table."""
        stream = stream or sys.stderr  # None: there is no standard error
        usable = stream is not None and not stream.closed
        dumb, ci = os.environ.get("TERM") == "dumb", os.environ.get("CI", "")
        self._draws = usable and stream.isatty() and not dumb and ci in ("", "0", "false")
        self._console = _Console(file=stream, force_terminal=self._draws, quiet=not usable)
        self._quiet = quiet
        self._bar: _Bar | None = None
        self._shown: dict[str, Any] = {}  # what the bar shows once it is drawn
        # Row ("": the bar) -> monotonic seconds: no drawing and no progress line of it before.
        self._next = dict[str, float]()
        self._training: tuple[int, int] | None = None  # total steps, steps per epoch
        self._first_update: tuple[float, int] | None = None  # monotonic seconds, step

    def note(self, text: str) -> None:
        """Write a line, above the bar if there is one."""
        if not self._quiet:
            self._line(text)

    def warn(self, text: str) -> None:
        """Write what is wrong but does not end the run, also when quiet."""
        self._line(text, "warning: ", "yellow")

    def error(self, text: str, label: str = "error") -> None:
        """Write what ends the run, also when quiet; `label`: that of the TrainerError."""
        self._line(text, f"{label}: ", "bold red" if label == "error" else "yellow")

    def start(self, total_steps: int, initial_step: int, steps_per_epoch: int) -> None:
        """Show the progress of a training, which goes from initial_step to total_steps."""
        self.close()
        self._training, self._first_update = (total_steps, steps_per_epoch), None
        self._next[""] = time.monotonic() + (0 if self._draws else _LINE_SECONDS)
        self._show("compiling", initial_step, total_steps, "")

    def update(self, step: int, means: Mapping[str, float], examples_per_second: float) -> None:
        """Show the state after `step` steps, unless the last drawing or line was just before.

        The means of the loss and the metrics are over the examples of this epoch.
        """
        if self._training is None:
            return
        (total, per_epoch), now = self._training, time.monotonic()
        # Not from the start on: the time before the first update is mostly compilation.
        began, first = self._first_update = self._first_update or (now, step)
        left = "-:--:--"
        if step > first:
            left = str(timedelta(seconds=round((now - began) / (step - first) * (total - step))))
        speed = f"{examples_per_second:,.0f} examples/s"
        values = (
            f"{_short(name)} {value:.1%}" if name == "accuracy" else f"{name} {value:.4f}"
            for name, value in means.items()
        )
        epoch = f"epoch {max(-(-step // per_epoch), 1)}/{-(-total // per_epoch)}"
        parts = [f"{step}/{total}", *values, speed, f"{left} left"]
        # The bar has one column at least. The metrics go first, the last one before the others;
        # then the speed, then the loss. That of a classifier fits 80 columns as it is.
        room = self._console.options.max_width - len(f"{epoch} ━ ") if self._draws else math.inf
        while len(parts) > 2 and len(" ".join(parts)) > room:
            del parts[-3 if len(parts) > 4 else -2]
        self._show(epoch, step, total, " ".join(parts))

    def evaluation(
        self,
        epoch: int,
        step: int,
        train_loss: float,
        split: str,
        means: Mapping[str, float],
        seconds: float,
    ) -> None:
        """Write a line of an evaluation: position, split, mean loss and metrics, its duration.

        The training loss is NaN if this start of the run did no step of the epoch. The line of a
        classifier fits 80 columns.
        """
        total, per_epoch = self._training or (step, max(step, 1))
        texts = ((_short(name), metric_text(name, value)) for name, value in means.items())
        results = ", ".join(f"{name} {text:>6}" for name, text in texts)
        trained = "     -" if math.isnan(train_loss) else f"{train_loss:6.4f}"
        self.note(
            f"epoch {epoch:{len(str(-(-total // per_epoch)))}}  step {step:{len(str(total))}}  "
            f"loss {trained}  {split} {results} in {seconds:.2f} s"
        )

    def download(self, label: str, done: int, total: int | None) -> None:
        """Show how many bytes were downloaded, or decoded; `label` says what is done to what.

        `total` is None while it is unknown, 0 if the download has failed: its bar vanishes.
        """
        if total == 0 and self._bar is not None:
            self._bar.live.transient = True
        size = f"{done / 1e6:.1f}" + (f"/{total / 1e6:.1f} MB" if total else " MB")
        if total != 0 and (done != total or self._bar is not None):
            self.work(label, done, total, size)
        if done == total:
            self.close()

    def work(self, label: str, done: int, total: int | None, status: str) -> None:
        """Show on a bar, which close() ends, that `done` parts of `total` are done.

        `label` is the name of the current part; its `status` is empty once it is done.
        """
        if not status or label != self._shown.get("description"):
            self._next[""] = 0.0
        self._show(label, done, total, status)

    def rows(self, done: int, total: int, rows: Mapping[str, str]) -> None:
        """Show on a bar that `done` parts of `total` are done, with what is at work below it.

        `rows`: the name of each part at work -> its status. Without a bar, each has lines of its
        own, like those of work().
        """
        if not self._draws:
            self._next = {name: due for name, due in self._next.items() if name in rows}
            for name, status in rows.items():
                if self._is_due(name):
                    self.note(f"{name}: {status}")
            return
        lines = [
            Text(f"{name}  {status}", no_wrap=True, overflow="ellipsis")
            for name, status in rows.items()
        ]
        self._show(f"{done}/{total}", done, total, "", lines)

    def summary(self, rows: Sequence[tuple[str, str]]) -> None:
        """Write the closing table of (name, value), also when quiet.

        On a terminal that is too narrow for a list, it takes several lines; what may be copied (a
        folder, a command) stays in one piece.
        """
        self.close()
        width = max((len(name) for name, _ in rows), default=0) + 2
        room = self._console.width - width if self._draws else math.inf
        for name, value in rows:
            line, label = "", f"{name:{width}}"
            for part in [value] if "'" in value else value.split(", "):
                if line and len(line) + len(part) + 3 > room:
                    self._line(f"{line},", label, "bold")
                    line, label = "", " " * width
                line = f"{line}, {part}" if line else part
            self._line(line, label, "bold")

    def close(self) -> None:
        """Leave the bar on the screen as it is; may be called twice, and start() may follow."""
        bar, self._bar, self._training = self._bar, None, None
        if bar is not None:
            with suppress(OSError, ValueError):
                bar.lines = ()
                bar.update(bar.task_ids[0], **self._shown)
                bar.stop()  # draws it once more
        self._shown = {}

    def _show(
        self, label: str, done: int, total: int | None, status: str, lines: Sequence[Text] = ()
    ) -> None:
        """Draw the bar, with lines below it, or write a line, unless it was done just before."""
        self._shown = {"description": label, "completed": done, "total": total, "status": status}
        if self._quiet or not (self._draws or status) or not self._is_due():
            return
        if self._draws:
            with self._writing():
                self._bar = bar = self._bar or self._new_bar()
                bar.lines = lines
                bar.update(bar.task_ids[0], **self._shown)
                bar.start()  # does nothing once it has started
                bar.refresh()
        else:
            self._line(f"{label}: {status}")

    def _is_due(self, row: str = "") -> bool:
        """Return whether a row may be drawn or written again; the next one waits from now on."""
        if (now := time.monotonic()) < self._next.get(row, 0.0):
            return False
        self._next[row] = now + (_BAR_SECONDS if self._draws else _LINE_SECONDS)
        return True

    def _line(self, text: str, label: str = "", style: str = "") -> None:
        with self._writing():
            self._console.print(Text.assemble((label, style), text), soft_wrap=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Become silent for good if the stream is closed, or nobody reads it any more."""
        try:
            yield
        except (OSError, ValueError):
            self._console.quiet, self._draws = True, False
            self.close()

    def _new_bar(self) -> _Bar:
        bar = _Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(None),
            TextColumn("{task.fields[status]}", markup=False),
            console=self._console,
            auto_refresh=False,  # no thread
            expand=True,
            redirect_stdout=False,  # it may be a file
            redirect_stderr=self._console.file is sys.stderr,
        )
        bar.add_task("", total=None, status="")
        atexit.register(self.close)  # a bar hides the cursor: always bring it back
        return bar


def _short(name: str) -> str:
    return "acc" if name == "accuracy" else name


def metric_text(name: str, value: float) -> str:
    """Return the value of a metric for people: the accuracy in percent."""
    return f"{value:.2%}" if name == "accuracy" else f"{value:.4f}"
