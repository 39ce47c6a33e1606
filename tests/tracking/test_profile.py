"""A profile of some steps, as TensorBoard's profiler reads it."""

import pytest
from jax.profiler import ProfileData
from support.trained_runs import train_here

from trainer.config.compose import compose
from trainer.job.errors import ConfigError


def train(folder, *options):
    """Train for an epoch of 57 steps, in dispatches of 7."""
    options = ("train.epochs=1", "train.steps_per_dispatch=7", *options)
    return train_here("+experiment=smoke", f"run.dir={folder / 'run'}", *options)


def profiles(folder):
    return sorted(folder.glob("run/tensorboard/plugins/profile/*/*.xplane.pb"))


def dispatches(path):
    """How often the host handed over the program of the steps."""
    return sum(
        event.name == "PjitFunction(steps)" or "ExecuteHelperOnSingleDevice" in event.name
        for plane in ProfileData.from_file(str(path)).planes
        for line in plane.lines
        for event in line.events
    )


def test_the_dispatches_of_the_steps_are_recorded(tmp_path):
    assert train(tmp_path, "train.profile_steps=[30,50]") == 0
    (path,) = profiles(tmp_path)
    # Steps 29 to 35, 36 to 42, 43 to 49, 50 to 56; the next may be on its way already.
    assert dispatches(path) in (4, 5)


def test_steps_that_end_with_the_run_are_recorded_too(tmp_path):
    assert train(tmp_path, "train.profile_steps=[55,1000]") == 0
    assert len(profiles(tmp_path)) == 1


def test_steps_behind_the_end_of_the_run_are_reported(tmp_path, capsys):
    assert train(tmp_path, "train.profile_steps=[58,70]") == 0
    message = "train.profile_steps=[58, 70]: nothing will be recorded: the run ends with step 57"
    assert message in capsys.readouterr().err
    assert profiles(tmp_path) == []


def test_a_profile_that_cannot_be_written_ends_nothing(tmp_path, capsys):
    (tmp_path / "run" / "tensorboard").mkdir(parents=True)
    (tmp_path / "run" / "tensorboard" / "plugins").write_text("in the way")
    assert train(tmp_path, "train.profile_steps=[30,50]") == 0
    assert "the profile cannot be written, training continues" in capsys.readouterr().err


@pytest.mark.parametrize("steps", ["[5]", "[0,3]", "[9,3]", "[1,2,3]", "[]"])
def test_steps_that_cannot_be_are_refused(steps):
    with pytest.raises(ConfigError, match=r"train\.profile_steps="):
        compose(["+experiment=smoke", f"train.profile_steps={steps}"])
