"""A real TensorBoard and a real browser show finished runs, and one that is being written."""

import io
import urllib.parse
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
from PIL import Image
from support.board import fetch, get, hparams
from support.browser import take, wait_until
from support.shown_runs import EPOCHS, RUNS, SAVED, STEPS, expected_steps, logged, steps_of
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from trainer.config.compose import compose
from trainer.tracking.summaries import write_start
from trainer.tracking.tensorboard import Tracker

DONE_AGAIN = {"train/loss", "validation/loss", "pictures/filters", "weights/0/kernel"}
CLASSES = ("confusion_counts", "confusion_normalized", "class_accuracy", "most_wrong")
ENDS = {"failed": "STATUS_FAILURE", "mended": "STATUS_SUCCESS", "moved": "STATUS_SUCCESS"}
pytestmark = pytest.mark.slow


def test_the_killed_start_left_points_that_are_done_again(folder):
    left = {
        value.tag
        for path in (folder / "killed").iterdir()
        for event in EventFileLoader(str(path)).Load()
        if event.step > SAVED
        for value in event.summary.value
    }
    assert left >= DONE_AGAIN


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_curves_are_those_of_the_log_each_point_once(folder, any_board, run, split):
    points = logged(folder, run, split)
    names = set(points[0]) - {"step", "split", "time"}
    assert names >= {"loss", "accuracy"}
    for name in names:
        tag = f"{split}/{name}"
        shown = get(any_board, "scalars/scalars", run=f"{run}/tensorboard", tag=tag)
        assert steps_of(shown) == [point["step"] for point in points]
        for (_, _, value), point in zip(shown, points, strict=True):
            assert value == pytest.approx(point[name], rel=1e-6)


@pytest.mark.parametrize("run", RUNS)
def test_what_comes_with_an_evaluation_is_there_once_for_each(any_board, run):
    one = {"run": f"{run}/tensorboard"}
    for kind in ("weight_norm", "gradient_norm"):
        norms = get(any_board, "scalars/scalars", tag=f"{kind}/0/kernel", **one)
        assert steps_of(norms) == expected_steps(run)
        assert all(value > 0 for _, _, value in norms)
    drawn = expected_steps(run) if run == "resumed" else [2 * STEPS]
    pictures = partial(get, any_board, "images/images", sample=0, **one)
    for tag in (*(f"validation_{name}" for name in CLASSES), "filters", "curves"):
        assert steps_of(pictures(tag=f"pictures/{tag}")) == drawn
    for tag in CLASSES:  # at the end
        assert steps_of(pictures(tag=f"pictures/test_{tag}")) == drawn[-1:]
    histograms = get(any_board, "histograms/histograms", tag="weights/0/kernel", **one)
    assert steps_of(histograms) == drawn
    assert steps_of(pictures(tag="pictures/inputs")) == [0]


@pytest.mark.parametrize("run", RUNS)
def test_classes_add_up_to_the_accuracy(folder, board, run):
    """There are as many examples of each to test on."""
    one = {"run": f"{run}/tensorboard"}
    classes = [
        get(board, "scalars/scalars", tag=f"test_class_accuracy/{digit}", **one)
        for digit in range(10)
    ]
    for points, whole in zip(zip(*classes, strict=True), logged(folder, run, "test"), strict=True):
        assert {step for _, step, _ in points} == {whole["step"]}
        mean = sum(value for _, _, value in points) / 10
        assert mean == pytest.approx(whole["accuracy"], abs=1e-6)


def test_time_and_memory_are_shown_at_each_log_point_once(board):
    names = ("time/compute_ms", "time/data_wait_ms", "time/rest_ms", "time/goodput", "memory/host")
    for run, steps in (
        ("finished", [32, 48, 73, 89, 105]),  # where dispatches of 16 pass multiples of 21
        ("resumed", list(range(21, EPOCHS * STEPS + 1, 21))),
    ):
        for name in names:
            shown = get(board, "scalars/scalars", run=f"{run}/tensorboard", tag=name)
            assert steps_of(shown) == steps
            low, high = {"time/goodput": (0, 1), "memory/host": (30, 10_000)}.get(name, (0, 1e6))
            assert all(low <= value <= high for _, _, value in shown)


@pytest.mark.parametrize("run", RUNS)
def test_texts_are_written_once_each(board, run):
    one = {"run": f"{run}/tensorboard"}
    (configuration,) = get(board, "text/text", tag="configuration/text_summary", **one)
    assert configuration["step"] == 0
    assert "log_every_steps: 21" in configuration["text"]
    starts = get(board, "text/text", tag="environment/text_summary", **one)
    assert steps_of(starts) == ([0] if run == "finished" else [0, SAVED + 1])
    assert all("orbax-checkpoint" in start["text"] for start in starts)


def test_hyperparameters_stand_in_the_run_s_own_row(folder, board):
    result = hparams(board)
    assert set(result) == {f"{run}/tensorboard" for run in (*RUNS, *ENDS)}
    for run in RUNS:
        _, metrics, status = result[f"{run}/tensorboard"]
        assert status == "STATUS_SUCCESS"
        for split in ("validation", "test"):
            last = logged(folder, run, split)[-1]
            for name in ("accuracy", "loss"):
                assert metrics[f"{split}/{name}"] == pytest.approx(last[name], rel=1e-6)
    options, *_ = result["finished/tensorboard"]
    assert options["optim.lr"] == 0.02
    assert options["optim.nesterov"] is True
    assert options["model.hidden_sizes"] == "32-16"
    assert result["resumed/tensorboard"][0]["train.epochs"] == EPOCHS
    assert set(get(board, "scalars/tags")) <= set(result)  # and there is no run besides


def test_hyperparameters_tell_how_the_last_start_ended_and_on_what(any_board):
    result = hparams(any_board)
    assert {run: result[f"{run}/tensorboard"][2] for run in ENDS} == ENDS
    options, *_ = result["moved/tensorboard"]
    assert (options["devices"], options["train.epochs"]) == (2, 2)


def test_pictures_are_pictures(board):
    for tag in ("inputs", *(f"validation_{name}" for name in CLASSES), "filters", "curves"):
        shown = get(
            board, "images/images", run="resumed/tensorboard", tag=f"pictures/{tag}", sample=0
        )
        query = dict(urllib.parse.parse_qsl(shown[-1]["query"]))
        with Image.open(io.BytesIO(fetch(board, "images/individualImage", **query))) as picture:
            assert min(picture.size) > 200
            assert np.asarray(picture.convert("L")).std() > 10


@pytest.mark.parametrize(
    ("page", "wanted", "pictures"),
    [
        (
            "scalars&tagFilter=validation",
            ("validation/accuracy", "validation/loss", "validation_class_accuracy/9"),
            0,
        ),
        (
            "images&tagFilter=validation|inputs",
            ("pictures/validation_confusion_normalized", "pictures/inputs"),
            10,
        ),
        ("custom_scalars", ("Training", "Speed", "Layers", "train/loss (resumed/tensorboard)"), 0),
        ("text", ("configuration/text_summary", "log_every_steps: 21", "orbax-checkpoint"), 0),
    ],
)
def test_pages_in_a_real_browser(board, browser, tmp_path, page, wanted, pictures):
    browser.open(f"{board}/#{page}", *wanted, pictures=pictures)
    take(browser, tmp_path / f"{page.partition('&')[0]}.png")


def test_a_real_browser_shows_the_values_of_the_log(folder, board, browser, tmp_path):
    browser.open(f"{board}/?tagFilter=validation%2F#timeseries")  # else it is far below
    expected = {}
    for run in RUNS:
        last = logged(folder, run, "validation")[-1]
        expected[run] = (float(f"{last['accuracy']:.4g}"), last["step"])

    def shown():
        """Return, of each run, the last value and step that stand below the first curve."""
        lines = browser.text().splitlines()
        card = lines.index("/accuracy")
        assert lines[card - 1] == "validation"
        result = {}
        for run in RUNS:
            row = lines.index(f"{run}/tensorboard", card)
            _, value, step = lines[row + 1 : row + 4]  # the smoothed value is the first
            result[run] = (float(value), int(step))
        return result

    def ready():
        try:
            return shown() == expected
        except (ValueError, AssertionError):
            return False

    wait_until(ready, 60, lambda: f"{expected}: {browser.text()}")
    take(browser, tmp_path / "timeseries.png")


def test_a_real_browser_shows_a_row_for_each_run(folder, board, browser, tmp_path):
    accuracies = [f"{logged(folder, run, 'validation')[-1]['accuracy']:.4f}" for run in RUNS]
    names = ("model.hidden_sizes", "optim.lr", "run.seed", "train.epochs", "validation/accuracy")
    browser.open(f"{board}/#hparams", *names, "32-16", "0.020000", *accuracies)
    take(browser, tmp_path / "hparams.png")


def test_a_run_moves_on_while_it_is_written(folder, boards):
    """With either loader, after TensorBoard has read it; and when it resumes."""
    config = compose(["+experiment=smoke"])[0].config
    run = folder / "runs" / "live"

    def shown(address, steps):
        with suppress(OSError):  # it does not know the run yet
            answer = get(address, "scalars/scalars", run="live/tensorboard", tag="train/loss")
            return steps_of(answer) == steps
        return False

    for steps, resume_step in (((1, 2), None), ((3,), 2)):
        with Tracker(run, resume_step, pytest.fail) as tracker:
            write_start(tracker, config, "noise", None, "", {"devices": []})
            for step in steps:
                tracker.scalars("train", step, {"loss": 1.0})
                tracker.flush()
                for address in boards:
                    ready = partial(shown, address, [*range(1, step + 1)])
                    wait_until(ready, 60, partial("step {} at {}".format, step, address))
