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
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from trainer.job.errors import writing
from trainer.job.files import write_bytes
from trainer.tracking.metrics import MetricsLog

UNUSED = ("torch", "boto3", "google.cloud", "comet_ml")


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Make modules that are not imported yet look as if they were not installed."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: "not installed"
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


with _hidden(*UNUSED):
    from tensorboardX import summary
    from tensorboardX.proto.api_pb2 import Status
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.record_writer import RecordWriter

__all__ = [
    "Event",
    "HParamsPluginData",
    "RecordWriter",
    "SessionLog",
    "Status",
    "Summary",
    "summary",
]


_LENGTH = struct.Struct("<Q4x")  # before each event, with its own checksum
_CHECKSUM = 4  # bytes after it


def forget(folder: Path, first_step: int) -> None:
    """Take the events of step `first_step` and later out of all event files of a folder.

    A reader that has a file open goes on with what it was. Files without any event left are
    deleted.

    Raises:
        OSError: a file cannot be read or written.
    """
    for path in sorted(folder.glob("events.out.tfevents.*")):
        records = list(_records(path.read_bytes()))
        kept = [data for data, event in records if event.step < first_step or event.file_version]
        if len(kept) == len(records):
            continue
        if len(kept) > 1:
            write_bytes(path, b"".join(kept))
        else:
            path.unlink()


def _records(data: bytes) -> Iterator[tuple[bytes, Event]]:
    """Yield every event, as it is stored and parsed, up to the first that is torn."""
    begin = 0
    while begin + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, begin)
        start = begin + _LENGTH.size
        end = start + length + _CHECKSUM
        if end > len(data):
            return
        try:
            event = Event.FromString(data[start : end - _CHECKSUM])
        except DecodeError:
            return
        yield data[begin:end], event
        begin = end


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
        with writing(run_dir):
            folder.mkdir(parents=True, exist_ok=True)
            self._metrics = MetricsLog(run_dir / "metrics.jsonl", resume_step)
            self.reached = self._metrics.reached  # by the start before this one
            forget(folder, self._first_step)
            self._events = RecordWriter(str(folder / _file_name(folder)))
            # A TensorBoard that has read the earlier files forgets what is beyond this step.
            start = SessionLog(status=SessionLog.START)
            for fields in (
                {"file_version": "brain.Event:2"},
                {"step": self._first_step, "session_log": start},
            ):
                self._events.write(Event(wall_time=time.time(), **fields).SerializeToString())
            self._events.flush()
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
