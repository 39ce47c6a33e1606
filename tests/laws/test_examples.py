"""Each example trains as its experiment says, in a short form, and the guarantees hold for it."""

import json
from pathlib import Path

import pytest
from support.harm import flip_a_bit, largest_file
from support.in_process import StopAfter, points_of, summary_of, train
from support.trained_runs import copy, trained_once

from trainer.job.errors import EXIT_COMPLETED, EXIT_RETRY

pytestmark = pytest.mark.slow  # whole runs: on one Python only
EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = {
    "cnn": (
        *("data=mnist_5k", "train.epochs=2", "train.global_batch_size=250"),
        *("model.options.channels=4", "model.options.features=16"),
    ),
    "transformer": (
        *("train.epochs=3", "data.options.size=40_000", "data.options.length=32"),
        *("model.options.layers=1", "model.options.features=32", "model.options.heads=2"),
    ),
    "tabular": ("train.epochs=12", "train.eval_every_epochs=3", "checkpoint.every_epochs=3"),
    "flax_module": (
        *("data=mnist_5k", "train.epochs=2", "train.global_batch_size=250"),
        "checkpoint.every_epochs=1",
    ),
}


def example(folder, name, *options, stop=None):
    """Train an example in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINER_CONFIG_DIR", str(EXAMPLES / name))
        arguments = (f"+experiment={name}", *SHORT[name], *options, "run.dir=run")
        # K divides the 15 steps of an epoch of images: else XLA compiles a second program.
        return train(folder, *arguments, "train.steps_per_dispatch=3", stop=stop)


@pytest.fixture(scope="module", params=SHORT)
def trained(request, tmp_path_factory):
    """The name of an example, and the folder of a short run of it."""

    def once(folder):
        done = example(folder, request.param)
        assert done.returncode == EXIT_COMPLETED, done.stderr
        return folder

    name = f"example-{request.param}"
    return request.param, trained_once(tmp_path_factory, name, once)


def test_it_learns(trained):
    name, folder = trained
    evaluations = [point for point in points_of(folder) if point["split"] == "validation"]
    assert evaluations[-1]["loss"] < evaluations[0]["loss"], name
    summary = summary_of(folder)
    assert summary["status"] == "completed"
    assert ("accuracy" in summary["metrics"]) == (name in ("cnn", "flax_module"))


def test_stopped_and_resumed_it_ends_with_the_same_bits_and_points(trained, tmp_path):
    name, folder = trained
    stopped = example(tmp_path, name, stop=StopAfter(9))
    assert stopped.returncode == EXIT_RETRY, stopped.stderr
    assert 0 < summary_of(tmp_path)["steps"] < summary_of(folder)["steps"]
    assert example(tmp_path, name).returncode == EXIT_COMPLETED
    assert summary_of(tmp_path)["weights_sha256"] == summary_of(folder)["weights_sha256"]
    assert points_of(tmp_path) == points_of(folder)


def test_a_flipped_bit_is_named_and_the_step_before_is_used(trained, tmp_path):
    name, folder = trained
    copy(folder / "run", tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    *_, before, last = sorted(int(path.name) for path in checkpoints.iterdir())
    flip_a_bit(largest_file(checkpoints / str(last)))
    done = example(tmp_path, name)
    assert done.returncode == EXIT_COMPLETED, done.stderr
    assert f"checkpoint {checkpoints / str(last)} is damaged" in done.stderr
    assert f"resuming after step {before:,}" in done.stderr
    assert summary_of(tmp_path)["weights_sha256"] == summary_of(folder)["weights_sha256"]
    record = json.loads((checkpoints / str(last) / "record.json").read_text())
    assert record["validation_loss"] == summary_of(folder)["validation_loss"]
