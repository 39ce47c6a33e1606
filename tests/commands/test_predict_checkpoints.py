"""`predict` takes an intact checkpoint that fits the images, or says why there is none."""

import shutil

import numpy as np
import pytest
from support.drawn_digits import draw
from support.trained_runs import copy, damage, everything

from trainer.checkpoint import load_model
from trainer.job.errors import EXIT_DATA, ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_a_damaged_checkpoint_is_passed_over_and_left_alone(smoke_run, tmp_path, predicted):
    run = copy(smoke_run, tmp_path / "run")
    draw(3).save(tmp_path / "3.png")
    _, newest, _ = predicted(run, tmp_path / "3.png")
    damage(run, 114)
    before = everything(run)
    code, older, message = predicted(run, tmp_path / "3.png")
    assert (newest["step"], older["step"], code) == (114, 57, 0)
    assert "checkpoint 114 of" in message
    assert "is damaged (" in message
    assert predicted(run, tmp_path / "3.png", "--step", 57)[1:] == (older, "")
    assert everything(run) == before


def test_what_cannot_be_used(smoke_run, tmp_path, predicted):
    draw(3).save(tmp_path / "3.png")
    with pytest.raises(DataError, match=r"--step 5: .* use one of 57, 114"):
        predicted(smoke_run, tmp_path / "3.png", "--step", 5)
    run = copy(smoke_run, tmp_path / "run")
    damage(run, 114)
    with pytest.raises(DataError, match=r"checkpoint 114 .* leave --step out"):
        predicted(run, tmp_path / "3.png", "--step", 114)
    damage(run, 57)
    with pytest.raises(DataError, match="none of its checkpoints is intact"):
        predicted(run, tmp_path / "3.png")
    for step in (57, 114):
        (run / "checkpoints" / str(step)).rename(run / "checkpoints" / f"bad-{step}.0")
    with pytest.raises(DataError, match=r"renamed to bad-114\.0, bad-57\.0"):
        predicted(run, tmp_path / "3.png")
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(DataError, match="has no checkpoint yet"):
        predicted(run, tmp_path / "3.png")
    for step in ("-1", "x"):
        with pytest.raises(ConfigError):
            predicted(run, tmp_path / "3.png", "--step", step)
    for wrong in (tmp_path / "rum", tmp_path, tmp_path / "3.png"):
        with pytest.raises(ConfigError, match=f"RUN={wrong} "):
            predicted(wrong, tmp_path / "3.png")


def test_a_checkpoint_deleted_meanwhile(smoke_run, tmp_path, monkeypatch):
    """A job retires the one that was just listed, and has a newer one by then."""
    run = copy(smoke_run, tmp_path / "run")
    (run / "checkpoints" / "114").rename(tmp_path / "114")
    steps = load_model.files.steps

    def and_then_retired(directory):
        result = steps(directory)
        if (tmp_path / "114").exists():
            shutil.rmtree(directory / "57")
            (tmp_path / "114").rename(directory / "114")
        return result

    monkeypatch.setattr(load_model.files, "steps", and_then_retired)
    warnings = []
    assert load_model.load(run, None, warnings.append).step == 114
    assert warnings == []


def test_the_shape_of_the_images_is_recorded(smoke_run, monkeypatch):
    read = load_model.files.read

    def oblong(*arguments):
        state, record = read(*arguments)
        assert record["objective"]["image_shape"] == [28, 28]
        return state, {**record, "objective": {**record["objective"], "image_shape": [14, 56]}}

    monkeypatch.setattr(load_model.files, "read", oblong)
    model = load_model.load(smoke_run, None, print)
    for shape in ((14, 56), (784,)):
        outputs = model.predict({"image": np.zeros((2, *shape), np.uint8)})
        assert outputs["logits"].shape == (2, 10)
    for shape in ((28, 28), (56, 14), (783,)):
        with pytest.raises(DataError, match="but the model was trained on"):
            model.predict({"image": np.zeros((2, *shape), np.uint8)})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_no_model(smoke_run, monkeypatch, value):
    read = load_model.files.read

    def broken(*arguments):
        state, record = read(*arguments)
        state["weights/1/bias"][3] = value
        return state, record

    monkeypatch.setattr(load_model.files, "read", broken)
    for step in (None, 57):
        with pytest.raises(DataError, match="holds weights that are NaN or infinite") as raised:
            load_model.load(smoke_run, step, print)
        assert raised.value.exit_code == EXIT_DATA
