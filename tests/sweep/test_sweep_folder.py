"""The folder of a sweep, whatever state it was left in."""

import math

import pytest
from support.sweep_folders import finish, make, write

from trainer.job import directory, lock
from trainer.job.errors import ConfigError
from trainer.job.signals import StopRequest
from trainer.sweep import command, plan
from trainer.sweep import folder as sweep_folder


def test_a_named_folder_takes_more_values_but_no_other_sweep(tmp_path):
    def at_work(*overrides):
        made = make(*overrides, f"run.dir={tmp_path}")
        sweep_folder.add(made.folder, made.fixed, made.trials)

    at_work("model.hidden_sizes=[16],[16,8]", "optim.lr=1,2")
    at_work("optim.lr=choice(3)", "model.hidden_sizes=choice([ 8 ])", "run.quiet=true")
    names = [trial.name for trial in sweep_folder.results(tmp_path)]
    assert len(names) == 5
    assert names[-1] == "model.hidden_sizes=[8],optim.lr=3"
    with pytest.raises(ConfigError, match=r"train\.epochs=9: on this command line only"):
        at_work("model.hidden_sizes=[16],[16,8]", "optim.lr=1,2", "train.epochs=9")
    with pytest.raises(ConfigError, match=r"optim\.lr=\.\.\.: in that sweep only"):
        at_work("model.hidden_sizes=[16],[16,8]")
    assert [trial.name for trial in sweep_folder.results(tmp_path)] == names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.hidden_sizes=[24]", "model.hidden_sizes: [24] in the finished trial, ["),
        ("train.epochs=7", "train.epochs: 7 in the finished trial, "),
        ("optim.momentum=0.3", "optim.momentum: 0.3 in the finished trial, "),
        (
            "data.shuffle=false",
            "data.shuffle: False in the finished trial, True in this configuration",
        ),
        ("run.quiet=true", None),
        ("data.root=/elsewhere", None),
        ("train.log_every_steps=3", None),
    ],
)
def test_finished_trials_of_another_configuration_are_refused(change, message, tmp_path):
    first = make("run.seed=3,4", f"run.dir={tmp_path}")
    sweep_folder.add(tmp_path, first.fixed, first.trials)
    for trial in first.trials:
        finish(trial, 0.5, change)
    command_line = ["+experiment=smoke", "run.seed=5,6", f"run.dir={tmp_path}"]
    if message is None:
        assert len(plan.make(command_line).trials) == 2
        return
    for flags in ([], ["--member", "0"]):
        with pytest.raises(ConfigError, match=r"start another sweep with run\.name=NAME") as raised:
            command.multirun(["-m", *flags, *command_line], StopRequest())
        assert f"run.seed=3: {message}" in str(raised.value)
    assert len(sweep_folder.results(tmp_path)) == 2


def test_a_sweep_and_a_single_run_do_not_mix(tmp_path):
    run, sweep = tmp_path / "run", tmp_path / "sweep"
    write(run / "summary.json")
    with pytest.raises(ConfigError, match=r"is the directory of a single run.*run\.name=NAME"):
        make("run.seed=0,1", f"run.dir={run}")
    write(sweep / "sweep.json")
    with pytest.raises(ConfigError, match=r"is the folder of a sweep.*run\.name=NAME"):
        directory.create(sweep)


def test_the_state_of_a_trial_is_read_from_its_folder(tmp_path):
    def status(name):
        return sweep_folder.result(tmp_path, name, {}).status

    assert status("none") == "waiting"
    (tmp_path / "killed" / "checkpoints" / "3").mkdir(parents=True)
    assert status("killed") == "interrupted"
    with lock.hold(tmp_path / "killed"):
        assert status("killed") == "running"
    write(tmp_path / "done" / "summary.json", status="completed", test_loss="NaN", started=1.0)
    assert status("done") == "completed"
    assert math.isnan(sweep_folder.result(tmp_path, "done", {}).test_loss)
    write(tmp_path / "stopped" / "member.json", begun=1.0, exit_code=75, error="SIGTERM")
    assert status("stopped") == "preempted"
    write(tmp_path / "bad" / "member.json", begun=1.0, exit_code=70, error="not finite")
    assert status("bad") == "failed"
    assert sweep_folder.result(tmp_path, "bad", {}).error == "not finite"
    # A process of several leaves at once when another is lost: only its summary tells.
    write(tmp_path / "lost" / "member.json", begun=1.0, exit_code=None, error=None)
    write(tmp_path / "lost" / "summary.json", status="failed", error="lost", started=2.0)
    assert status("lost") == "failed"
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "summary.json").write_text('{"status": "comp')
    assert status("torn") == "waiting"


@pytest.mark.parametrize("content", [None, "[]", '{"members": {'])
def test_a_folder_without_a_sweep_is_named(content, tmp_path):
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(ConfigError, match=r"sweep\.json is missing or damaged"):
        command.main([str(tmp_path)], StopRequest())
    made = make("optim.lr=1,2", f"run.dir={tmp_path}")  # the sweep's own command writes it again
    warnings = []
    sweep_folder.add(tmp_path, made.fixed, made.trials, warnings.append)
    assert len(warnings) == (content is not None)
    assert command.main([str(tmp_path)], StopRequest()) == 0
