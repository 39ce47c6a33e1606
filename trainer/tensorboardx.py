"""What is used of tensorboardX, without the large libraries that it imports where they are there.

Torch alone would take seconds of every start, and none of them is needed here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
