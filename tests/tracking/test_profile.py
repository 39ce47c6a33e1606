"""A profile of some steps, as TensorBoard's profiler reads it."""

import pytest
from jax.profiler import ProfileData

OPTIONS = ("+experiment=smoke", "train.steps_per_dispatch=7", "run.dir=run")


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


def test_the_dispatches_of_the_steps_are_recorded(trainer, tmp_path):
    done = trainer(*OPTIONS, "train.profile_steps=[30,50]")
    assert done.returncode == 0, done.stderr
    (path,) = profiles(tmp_path)
    # Steps 29 to 35, 36 to 42, 43 to 49, 50 to 56; the next may be on its way already.
    assert dispatches(path) in (4, 5)


def test_no_profile_unless_asked_for(trainer, tmp_path):
    done = trainer(*OPTIONS, "train.epochs=1")
    assert done.returncode == 0, done.stderr
    assert profiles(tmp_path) == []


def test_steps_that_end_with_the_run_are_recorded_too(trainer, tmp_path):
    done = trainer(*OPTIONS, "train.epochs=1", "train.profile_steps=[60,1000]")
    assert done.returncode == 0, done.stderr
    assert len(profiles(tmp_path)) == 1


def test_steps_behind_the_end_of_the_run_are_told(trainer, tmp_path):
    done = trainer(*OPTIONS, "train.epochs=1", "train.profile_steps=[64,70]")
    assert done.returncode == 0, done.stderr
    told = "train.profile_steps=[64, 70]: nothing will be recorded: the run ends with step 63"
    assert told in done.stderr
    assert profiles(tmp_path) == []


def test_a_profile_that_cannot_be_written_ends_nothing(trainer, tmp_path):
    (tmp_path / "run" / "tensorboard").mkdir(parents=True)
    (tmp_path / "run" / "tensorboard" / "plugins").write_text("in the way")
    done = trainer(*OPTIONS, "train.profile_steps=[30,50]")
    assert done.returncode == 0, done.stderr
    assert "the profile cannot be written, training goes on" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("steps", ["[5]", "[0,3]", "[9,3]", "[1,2,3]", "[]"])
def test_steps_that_cannot_be_are_refused(trainer, steps):
    done = trainer("+experiment=smoke", f"train.profile_steps={steps}")
    assert done.returncode == 78
    assert "train.profile_steps=" in done.stderr
    assert "Traceback" not in done.stderr
