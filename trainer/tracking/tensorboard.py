"""What a run records while it trains: TensorBoard event files and metrics.jsonl; process 0 only.

Not with tensorboardX's SummaryWriter, which hands events to a thread through a bounded queue: on a
full disk that thread dies, and the queue blocks training for ever. Nor does its flush() wait for
the queue, so a point logged before a checkpoint could be lost after it.
"""

import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from trainer.job.errors import writing
from trainer.job.files import LARGEST_LOG, ignoring, read_bytes, write_bytes
from trainer.tracking.metrics import MetricsLog

# tensorboardX imports these if they are installed, and does not need them: torch takes seconds.
_unused = [n for n in ("torch", "boto3", "google.cloud", "comet_ml") if n not in sys.modules]
sys.modules.update(dict.fromkeys(_unused))  # type: ignore[arg-type]  # None: "not installed"
try:
    from tensorboardX import summary as summary
    from tensorboardX.proto.api_pb2 import Status as Status
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData as HParamsPluginData
    from tensorboardX.proto.plugin_hparams_pb2 import SessionEndInfo as SessionEndInfo
    from tensorboardX.proto.summary_pb2 import Summary as Summary
    from tensorboardX.record_writer import RecordWriter
finally:
    for _name in _unused:
        del sys.modules[_name]

TENSORBOARD = "tensorboard"  # the folder of the event files in a run directory
THIS_START = 2**63 - 1  # step of what describes one start of the run: the next start deletes it
_FLUSH_SECONDS = 10.0  # how far TensorBoard lags behind at most; a flush waits for the disk
_LENGTH = struct.Struct("<Q4x")  # before each event in a file, with its own checksum
_CHECKSUM = 4  # bytes after it


class Tracker(AbstractContextManager["Tracker"]):
    """Writes every point to <run_dir>/tensorboard and to <run_dir>/metrics.jsonl.

    Once open it never ends the training: `warn` reports a failed write, once a file. The caller's
    thread writes; another may flush.
    """

    def __init__(self, run_dir: Path, resume_step: int | None, warn: Callable[[str], None]) -> None:
        """Open both files, without the points after `resume_step`; None deletes all points.

        Raises:
            ConfigError: the run directory cannot be written.
            SaveError: its storage is full or read-only.
        """
        self.warn, self.log = warn, run_dir / "metrics.jsonl"
        self._warned_metrics = False
        self._first_step = 0 if resume_step is None else resume_step + 1
        folder = run_dir / TENSORBOARD
        with writing(run_dir):
            folder.mkdir(parents=True, exist_ok=True)
            self._metrics = MetricsLog(self.log, resume_step, warn)
            self.reached = self._metrics.reached  # last step that an earlier start logged
            if not _purge(folder, self._first_step, warn) and resume_step:
                warn(f"{folder} has no events: the curves up to step {resume_step:,} are lost")
            # TensorBoard reads the files in the order of their names: the name has nanoseconds.
            seconds, nanoseconds = divmod(time.time_ns(), 10**9)
            name = f"events.out.tfevents.{seconds}.{nanoseconds:09}.{socket.gethostname()}"
            self._events: Any = RecordWriter(str(folder / name))
            self._events.write(_event(file_version="brain.Event:2"))
            # A TensorBoard that has read the earlier files drops what it has from this step on.
            start = SessionLog(status=SessionLog.START)
            self._events.write(_event(step=self._first_step, session_log=start))
            self._events.flush()
        self._flushed = time.monotonic()

    def scalars(self, split: str, step: int, values: Mapping[str, float]) -> bool:
        """Record the values of one split (see metrics.py) after `step` steps.

        They become the curves `<split>/<name>` and one line of metrics.jsonl. Returns False, and
        writes nothing, if the resumed log already has this point.
        """
        with self._metrics_may_fail():
            if not self._metrics.append(split, step, values, time.time()):
                return False
        self.curves(step, {f"{split}/{name}": value for name, value in values.items()})
        return True

    def curves(self, step: int, values: Mapping[str, float]) -> None:
        """Add points to curves of TensorBoard alone, after `step` steps."""
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self.summary(step, Summary(value=points))

    def summary(self, step: int, content: Any) -> None:
        """Write a Summary (see summaries.py) to TensorBoard alone, after `step` steps."""
        data = _event(step=step, summary=content)
        self._with_events(lambda events: events.write(data))
        if time.monotonic() >= self._flushed + _FLUSH_SECONDS:
            self._flush_events()

    def text(self, tag: str, markdown: str) -> None:
        """Show a text in TensorBoard, at the first step of this start of the run."""
        self.summary(self._first_step, summary.text(tag, markdown))

    def flush(self) -> None:
        """Wait until all points are on the disk; a checkpoint may then be written."""
        with self._metrics_may_fail():
            self._metrics.flush()
        self._flush_events()

    def __exit__(self, *_: object) -> None:
        """Flush and close both files."""
        self.flush()
        self._with_events(lambda events: events.close())
        self._metrics.close()

    def _flush_events(self) -> None:
        self._flushed = time.monotonic()
        self._with_events(lambda events: events.flush())

    def _with_events(self, work: Callable[[Any], None]) -> None:
        """Call work(event file); if the disk refuses, give up the file."""
        events = self._events
        if events is None:
            return
        try:
            work(events)
        except OSError as error:
            self._events = None  # for good: readers stop at a torn record
            with suppress(OSError):
                events.close()
            self.warn(f"TensorBoard's curves stop here, training continues: {error}")
        except ValueError:  # another thread has just given it up
            pass

    @contextmanager
    def _metrics_may_fail(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._warned_metrics:
                self._warned_metrics = True
                self.warn(f"metrics.jsonl misses points from here, training continues: {error}")


def _event(**fields: Any) -> bytes:
    data: bytes = Event(wall_time=time.time(), **fields).SerializeToString()
    return data


def _purge(folder: Path, first_step: int, warn: Callable[[str], None]) -> bool:
    """Delete the events of step `first_step` and later from all event files of a folder.

    A reader that has a file open still sees the old file. Files without any event left are deleted.
    One that is damaged from its beginning stays as it is, with a warning. Returns whether there
    were any files.
    """
    paths = sorted(folder.glob("events.out.tfevents.*"))
    for path in paths:
        contents = list[bytes]()
        with ignoring(path, warn):
            contents.append(read_bytes(path, LARGEST_LOG))
        if not contents:
            continue
        records = list(_records(contents[0]))
        if contents[0] and not records:
            warn(f"{path} holds no events that can be read: it is left as it is")
            continue
        kept = [raw for raw, event in records if event.step < first_step or event.file_version]
        if len(kept) <= 1 or path.suffix in (".begun", ".ended"):  # HParams of an older trainer
            path.unlink()
        elif len(kept) < len(records):
            write_bytes(path, b"".join(kept))
    return bool(paths)


def _records(data: bytes) -> Iterator[tuple[bytes, Event]]:
    """Yield every event, as it is stored and parsed, up to the first that is torn."""
    begin = 0
    with suppress(DecodeError):
        while (start := begin + _LENGTH.size) <= len(data):
            (length,) = _LENGTH.unpack_from(data, begin)
            end = start + length + _CHECKSUM
            if end > len(data):
                return
            yield data[begin:end], Event.FromString(data[start : end - _CHECKSUM])
            begin = end
