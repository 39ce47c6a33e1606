"""What a run is, for TensorBoard: its configuration and environment, its charts, its HParams."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from trainer import tensorboard_layout as layout
from trainer import tensorboard_summaries as summaries
from trainer.config import Config
from trainer.tracking import Tracker

_BEGUN, _ENDED = "begun", "ended"  # what HParams shows of a start, in files that the next replaces


def write(
    tracker: Tracker,
    config: Config,
    before: Mapping[str, Any] | None,
    yaml: str,
    environment: Mapping[str, Any],
) -> None:
    """Describe a start of a run; what the starts before it wrote is not written again.

    Args:
        tracker: writes it.
        config: every option, now.
        before: the options when the checkpoint was saved from which this start goes on; None: the
            run is new.
        yaml: the configuration as a text.
        environment: what the start stands on; it is another one each time.
    """
    values = layout.hparams(config, len(environment["devices"]))
    tracker.mark(_BEGUN, summaries.hparams(values, layout.METRICS, layout.FIRST))
    tracker.mark(_ENDED, None)
    if before is None:
        tracker.summary(0, summaries.layout(layout.CHARTS))
    if before != json.loads(json.dumps(dataclasses.asdict(config))):
        tracker.text("configuration", summaries.code(yaml))
    tracker.text("environment", summaries.table(environment))


def end(tracker: Tracker, *, failed: bool) -> None:
    """Mark a run in HParams as completed or failed, until it goes on."""
    tracker.mark(_ENDED, summaries.ended(failed=failed))
