"""What a run records while it trains: TensorBoard event files and metrics.jsonl.

Process 0 alone makes a Tracker. The caller's own thread writes both files, through tensorboardX's
RecordWriter; another may wait for the disk. Its SummaryWriter hands events to a thread through a
bounded queue: when the disk is full that thread dies, and the queue then blocks training for ever.
Nor does its flush() wait for the queue, so that a point logged before a checkpoint could be lost
after it.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainer import event_files
from trainer.errors import unwritable
from trainer.metrics_log import MetricsLog
from trainer.tensorboardx import Event, RecordWriter, SessionLog, Summary, summary

TENSORBOARD = "tensorboard"  # the folder of the event files in a run directory
_FLUSH_SECONDS = 10.0  # how far TensorBoard lags behind at most; a flush waits on the disk


class Tracker:
    """Writes every point to <run_dir>/tensorboard and to <run_dir>/metrics.jsonl.

    Once open it never ends the training: a failed write is told through `warn`, once a file.
    """

    def __init__(self, run_dir: Path, resume_step: int | None, warn: Callable[[str], None]) -> None:
        """Open both files.

        Args:
            run_dir: the run directory; made if it is missing.
            resume_step: the step the weights were restored from: later points are forgotten;
                None: a new start, all are.
            warn: shows one line to the user.

        Raises:
            ConfigError: the run directory cannot be written.
            SaveError: its storage is full, or can only be read.
        """
        self._warn = warn
        self._warned_metrics = self._closed = False
        self._first_step = 0 if resume_step is None else resume_step + 1
        self._events: Any = None
        self._folder = folder = run_dir / TENSORBOARD
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._metrics = MetricsLog(run_dir / "metrics.jsonl", resume_step)
            self.reached = self._metrics.reached  # by the start before this one
            event_files.forget(folder, self._first_step)
            self._events = RecordWriter(str(folder / _file_name(folder)))
            # A TensorBoard that has read the earlier files forgets what is beyond this step.
            start = SessionLog(status=SessionLog.START)
            for fields in (
                {"file_version": "brain.Event:2"},
                {"step": self._first_step, "session_log": start},
            ):
                self._events.write(Event(wall_time=time.time(), **fields).SerializeToString())
            self._events.flush()
        except OSError as error:
            raise unwritable(run_dir, error) from None
        self._flushed = time.monotonic()

    def scalars(self, split: str, step: int, values: Mapping[str, float]) -> bool:
        """Record the values of one split ("train" or "eval") after `step` steps.

        They become the curves `<split>/<name>` and one line of metrics.jsonl. A point that is
        there since before a resume stays as it is; then False is returned.
        """
        now = time.time()
        try:
            if not self._metrics.append(split, step, values, now):
                return False
        except OSError as error:
            self._lost_metrics(error)
        curves = [Summary.Value(tag=f"{split}/{k}", simple_value=v) for k, v in values.items()]
        self._event(Event(step=step, wall_time=now, summary=Summary(value=curves)))
        return True

    def curves(self, step: int, values: Mapping[str, float]) -> None:
        """Add points to curves of TensorBoard alone, after `step` steps."""
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self.summary(step, Summary(value=points))

    def summary(self, step: int, content: Any) -> None:
        """Show in TensorBoard alone what tensorboard_summaries.py makes, after `step` steps."""
        self._event(Event(step=step, wall_time=time.time(), summary=content))

    def mark(self, what: str, content: Any | None) -> None:
        """Show something of which TensorBoard keeps the first that it reads: in a file of its own.

        It takes the place of what was marked so before, by an earlier start as well; None: of that
        alone. A TensorBoard that has read that goes on to show it until it is started again.
        """
        events = self._events
        if events is None:
            return
        try:
            for path in self._folder.glob(f"events.out.tfevents.*.{what}"):
                path.unlink()
            if content is not None:
                file = RecordWriter(str(self._folder / f"{_file_name(self._folder)}.{what}"))
                for fields in ({"file_version": "brain.Event:2"}, {"summary": content}):
                    file.write(Event(wall_time=time.time(), **fields).SerializeToString())
                file.close()
        except OSError as error:
            self._lost_events(events, error)

    def text(self, tag: str, markdown: str) -> None:
        """Show a text in TensorBoard, at the step where this start of the run began."""
        self.summary(self._first_step, summary.text(tag, markdown))

    def flush(self) -> None:
        """Wait until all points are on the disk; before a checkpoint, so that none gets lost.

        In any thread, also while another adds points.
        """
        try:
            self._metrics.flush()
        except OSError as error:
            self._lost_metrics(error)
        events = self._events
        if events is not None:
            try:
                events.flush()
            except OSError as error:
                self._lost_events(events, error)
            except ValueError:  # closed meanwhile: the other thread has told why
                pass
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flush and close both files; may be called twice."""
        if not self._closed:
            self._closed = True
            self.flush()
            if self._events is not None:
                self._events.close()
            self._metrics.close()

    def __enter__(self) -> Tracker:
        """Return the tracker itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _event(self, event: Any) -> None:
        events = self._events
        if events is None:
            return
        try:
            events.write(event.SerializeToString())
            if time.monotonic() >= self._flushed + _FLUSH_SECONDS:
                self._flushed = time.monotonic()
                events.flush()
        except OSError as error:
            self._lost_events(events, error)
        except ValueError:  # closed meanwhile: the other thread has told why
            pass

    def _lost_events(self, events: Any, error: OSError) -> None:
        # For good: behind a torn record, readers would find nothing any more.
        self._events = None
        with contextlib.suppress(OSError):
            events.close()
        self._warn(f"TensorBoard's curves stop here, training goes on: {error}")

    def _lost_metrics(self, error: OSError) -> None:
        if not self._warned_metrics:
            self._warned_metrics = True
            self._warn(f"metrics.jsonl misses points from here, training goes on: {error}")


def _file_name(folder: Path) -> str:
    # TensorBoard reads the files in the order of their names: later than all that are there, also
    # within one second, or with a clock that is behind the one of the start before.
    names = [path.name for path in folder.glob("events.out.tfevents.*")]
    found = [re.match(r"events\.out\.tfevents\.(\d+)\.(\d{9})\.", name) for name in names]
    taken = [int(one[1] + one[2]) for one in found if one is not None]
    seconds, nanoseconds = divmod(max([time.time_ns(), *(after + 1 for after in taken)]), 10**9)
    return f"events.out.tfevents.{seconds}.{nanoseconds:09}.{socket.gethostname()}"
