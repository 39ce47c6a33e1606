"""The card of an exported model says what it is, and nothing of the machine it was made on."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from trainer.checkpoint import load_model
from trainer.config.schema import DataConfig
from trainer.data.report import Report
from trainer.export import command
from trainer.job.signals import StopRequest
from trainer.sources.load import load

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_the_card(smoke_run, smoke_export):
    card = (smoke_export / "MODEL_CARD.md").read_text()
    summary = json.loads((smoke_run / "summary.json").read_text())
    accuracy, loss = summary["test_accuracy"], summary["test_loss"]
    watched = summary["validation_accuracy"], summary["validation_loss"]
    index = json.loads((smoke_export / "model.json").read_text())
    for output in (
        "784-64-10, 50,890 parameters, float32",
        f"| mnist_5k, 1,000 test examples, at the export | {loss:.4f} | {accuracy:.2%} |",
        f"| mnist_5k, 400 validation examples, by the run | {watched[1]:.4f} | {watched[0]:.2%} |",
        "mnist_5k: 3,600 train + 400 validation + 1,000 test examples.",
        "| input `image` | uint8 | N x 28 x 28 |",
        "| output `logits` | float32 | N x 10 |",
        summary["dataset"]["sha256"],
        summary["weights_sha256"],
        f"| `weights.safetensors` | `{index['sha256']['weights.safetensors']}` |",
        'global_batch_size": 64',
        "| jax | ",
        "## Limits",
    ):
        assert output in card


def test_the_card_of_other_images(kinds_run, tmp_path):
    assert command.main([str(kinds_run), str(tmp_path / "kinds")], StopRequest()) == 0
    card = (tmp_path / "kinds" / "MODEL_CARD.md").read_text()
    assert "which of 3 classes an example belongs to: 0 to 2." in card
    assert "| input `image` | uint8 | N x 8 x 6 |" in card
    index = json.loads((tmp_path / "kinds" / "model.json").read_text())
    options = load_model.load(kinds_run, None, print).record["config"]["data"]
    options = DataConfig(**{**options, "root": str(kinds_run.parent / "images")})
    images = np.asarray(load(options, Report(print, print, print)).train["image"])
    assert len(images) == 540  # 600 but for those to validate by
    measured = {"pixel_mean": images.mean(), "pixel_std": images.std()}
    assert index["pixels"] == pytest.approx(measured, rel=1e-9)
    mean, std = (f"{value:.8g}" for value in measured.values())
    assert f"It subtracts {mean} from each and divides by {std}" in card
    assert re.search(r"\| idx, 90 test examples, at the export \| 0\.\d+ \| 100\.00% \|", card)


def test_nothing_tells_of_this_machine(smoke_run, smoke_export):
    for path in smoke_export.iterdir():
        data = path.read_bytes()
        for output in (str(smoke_run), str(smoke_run.parent), str(Path.cwd()), load_model.__file__):
            assert output.encode() not in data, f"{output} in {path.name}"
