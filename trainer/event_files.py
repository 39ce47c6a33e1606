"""TensorBoard's event files of earlier starts: what a roll-back undid is taken out of them.

An event also says where a start goes on, and TensorBoard's slower reader then forgets what lies
beyond; its fast one, the default, and other readers do not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from trainer.atomic import write_bytes
from trainer.tensorboardx import Event

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
