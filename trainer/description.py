"""What a run is, for TensorBoard: its configuration and environment, its charts, its HParams."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from trainer import charts, summaries
from trainer.config import Config
from trainer.tracking import Tracker


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
    if before is None:
        devices = len(environment["devices"])
        values = charts.hparams(config, devices)
        begun, _ = summaries.hparams(values, charts.METRICS, charts.FIRST)
        tracker.summary(0, begun)
        tracker.summary(0, summaries.layout(charts.CHARTS))
    if before != json.loads(json.dumps(dataclasses.asdict(config))):
        tracker.text("configuration", summaries.code(yaml))
    tracker.text("environment", summaries.table(environment))


def complete(tracker: Tracker, step: int) -> None:
    """Mark a run as completed in HParams."""
    _, completed = summaries.hparams({}, charts.METRICS)
    tracker.summary(step, completed)
