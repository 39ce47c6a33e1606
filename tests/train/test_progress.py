"""The means and the speed of the present, for the log and the terminal."""

import io
import json
import re

import numpy as np

from trainer.tracking.tensorboard import Tracker
from trainer.tracking.terminal import Terminal
from trainer.train.progress import Progress


def test_a_slow_down_shows(tmp_path, monkeypatch):
    """100 steps of 8 examples at 80 examples a second, then at 8."""
    shown = io.StringIO()
    terminal = Terminal(shown)
    monkeypatch.setattr("trainer.tracking.terminal._LINE_SECONDS", 0.0)
    terminal.start(130, 0, 1_000)
    row, seconds = np.array([[8.0, 4.0, 8.0]]), 0.0  # the loss, the accuracy, the examples
    with Tracker(tmp_path, None, print) as tracker:
        progress = Progress(10, ["accuracy"], lambda n: 0.1 + 0 * n, tracker, terminal, None, 1_000)
        for step in range(130):
            seconds += 0.1 if step < 100 else 1.0
            progress.add(range(step, step + 1), row, seconds)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    speeds = [round(json.loads(line)["examples_per_second"]) for line in lines]
    assert speeds == [80] * 10 + [8] * 3
    bars = [float(text) for text in re.findall(r"acc 50.0% (\S+) examples/s", shown.getvalue())]
    assert bars[99] == 80
    assert bars[119] < 16  # over the last two windows
    assert bars[129] == 8
