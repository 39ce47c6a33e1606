"""Trials that fail, stop or cannot start: the others go on, and the next start resumes them."""

import pytest

from trainer.job import directory, lock
from trainer.job.errors import ConfigError, Preempted
from trainer.job.signals import StopRequest
from trainer.sweep import folder as sweep_folder
from trainer.sweep import launcher


@pytest.mark.parametrize(
    ("codes", "code"), [({}, 0), ({1: 78}, 78), ({1: 70, 3: 70}, 70), ({1: 78, 2: 65}, 70)]
)
def test_a_failed_trial_gives_the_exit_code_and_is_tried_again(codes, code, trials, capsys):
    trials.codes = codes
    names = ["run.seed=0", "run.seed=1", "run.seed=2"]
    assert trials.run("run.seed=0,1,2") == (code, names)
    assert ("failed  " in capsys.readouterr().out) == bool(codes)
    trials.codes = {}
    assert trials.run("run.seed=0,1,2") == (0, [names[number - 1] for number in codes])
    assert trials.run("run.seed=0,1,2,3") == (0, ["run.seed=3"])


def test_a_stop_ends_the_sweep_before_the_next_trial(trials, capsys):
    trials.codes = {2: 75}
    with pytest.raises(Preempted, match=r"2/3 run\.seed=1: broken; the same command resumes"):
        trials.run("run.seed=0,1,2")
    assert [r.status for r in sweep_folder.results(trials.folder)] == [
        *("completed", "preempted", "waiting")
    ]
    assert "validation accuracy  spread" in capsys.readouterr().out
    stop = StopRequest()
    stop.signal_name = "SIGTERM"
    with pytest.raises(Preempted, match="SIGTERM"):
        trials.run("run.seed=0,1,2", stop=stop)
    assert len(trials.trained) == 2


def test_two_jobs_at_one_sweep_are_refused(trials):
    trials.folder.mkdir()
    with (
        lock.hold(trials.folder, "sweep.lock", "sweep"),
        pytest.raises(ConfigError, match=r"sweep .* is in use by process"),
    ):
        trials.run("run.seed=0,1")
    assert not trials.trained


def test_a_task_of_an_array_names_what_stands_in_its_way(trials):
    run = trials.folder / "run.seed=0"
    run.mkdir(parents=True)
    with lock.hold(run), pytest.raises(ConfigError, match="in use by process"):
        trials.run("run.seed=0,1", "--member", "0")  # a second start of the same task
    assert sorted(path.name for path in run.iterdir()) == ["run.lock"]
    (trials.folder / "sweep.turn").unlink()
    (trials.folder / "sweep.turn").mkdir()
    with pytest.raises(ConfigError, match=r"sweep\.turn cannot be written"):
        trials.run("run.seed=0,1", "--member", "0")


def test_a_trial_that_cannot_be_started_leaves_the_others_alone(trials, capsys):
    run = trials.folder / "run.seed=1"
    run.mkdir(parents=True)
    (run / "sweep.json").touch()  # as in the folder of another sweep
    real, trials.codes = trials.child, {1: 74}

    def child(folder, number, trial, share):
        directory.create(folder / trial.name)
        return real(folder, number, trial, share)

    trials.monkeypatch.setattr(launcher, "Child", child)
    code, names = trials.run("run.seed=0,1,2,3", "sweep.parallel=2")
    assert (code, names) == (70, [f"run.seed={seed}" for seed in (0, 2, 3)])
    err = capsys.readouterr().err
    assert "1/4 run.seed=0: failed: broken" in err
    assert "2/4 run.seed=1: failed: " in err
    assert "is the folder of a sweep" in err
    assert [r.status for r in sweep_folder.results(trials.folder)] == [
        "failed",
        "waiting",
        "completed",
        "completed",
    ]
