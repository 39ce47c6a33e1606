"""The command line of a sweep: its trials, its folder, and what is refused."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.sweep_folders import make

from trainer import __main__ as program
from trainer.job.errors import ConfigError
from trainer.job.signals import StopRequest
from trainer.sweep import command, plan


def test_a_command_names_its_trials_and_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = make("optim.lr=0.02,5e-2", "run.seed=range(0,2)", "train.epochs=1")
    names = [f"optim.lr={lr},run.seed={seed}" for lr in ("0.02", "0.05") for seed in (0, 1)]
    assert [trial.name for trial in made.trials] == names
    assert [job.config.optim.lr for job in made.jobs] == [0.02, 0.02, 0.05, 0.05]
    assert made.fixed == ["+experiment=smoke", "train.epochs=1"]
    assert made.folder.parent == tmp_path / "runs" / "smoke"
    again = make("run.seed=range(0,2)", "train.epochs=1", "optim.lr=0.02,0.05", "run.quiet=true")
    assert again.folder == made.folder
    assert {trial.name for trial in again.trials} == set(names)
    assert len(make("optim.lr=0.1,1e-1").trials) == 1  # the same value twice
    one = "optim.lr=choice(0.02)"
    others = ([one], [one, "train.epochs=1"], ["optim.lr=choice(1)"])
    assert len({make(*other).folder for other in others}) == 3
    assert make(one, "run.name=mine").folder == tmp_path / "runs" / "smoke" / "mine"
    assert make(one, "run.root=a").folder.parent == tmp_path / "a" / "smoke"
    assert make(one, "run.dir=here").folder == tmp_path / "here"
    both = plan.make(["+experiment=glob(*,exclude=mlp_*)", "run.name=both"])
    assert both.folder == tmp_path / "runs" / "several" / "both"
    assert [job.experiment for job in both.jobs] == ["mlp", "smoke"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("root", ["~/mnist", "/data(1)", "/it's, [x]", "/a b", "12e4567", "/a=b"])
def test_a_folder_is_what_it_is_in_a_single_run(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = root if "," not in root else "'/it\\'s, [x]'"
    made = make(f"data.root={given}", f"run.root={given}", "run.seed=0,1")
    assert made.fixed == ["+experiment=smoke", f"data.root={given}"]
    assert made.folder.parent == Path(root).expanduser().absolute() / "smoke"
    assert [job.config.data.root for job in made.jobs] == [root] * 2
    folders = [str(made.folder / f"run.seed={seed}") for seed in (0, 1)]
    assert [job.config.run.dir for job in made.jobs] == folders


def test_the_folder_of_a_sweep_keeps_its_name():
    made = make("optim.lr=0.02,0.05", "run.seed=0,1", "data.root=/a/b", "run.root=/runs")
    assert str(made.folder) == "/runs/smoke/sweep-2ea2b77e66"
    made = make("run.seed=choice(3)", "data.root=/a/b", "run.root=/runs")
    assert str(made.folder) == "/runs/smoke/sweep-31819381c2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.epochs=1"], "no option has several values"),
        (["optim.lr=0.1,-1"], "optim.lr=-1.0: use a finite number above 0"),
        (["optim.lrr=0.1,0.2"], "did you mean optim.lr?"),
        (["optim.lr=["], "optim.lr=["),
        (["optim.lr=interval(0.1,0.2)"], "hydra/sweeper=search"),
        (["run.name=a,b"], "run.name is the same in all trials"),
        (["run.quiet=true,false"], "run.quiet is the same in all trials"),
        (["cluster.kind=auto,single"], "cluster.kind is the same in all trials"),
        (["optim.lr=1,2", "sweep.parallel=0"], "sweep.parallel=0: use a whole number from 1 up"),
        (["optim.lr=1,2", "sweep.parallel=-1"], "sweep.parallel=-1: use a whole number from 1"),
        (["optim.lr=1,2", "sweep.parallel=all"], "sweep.parallel=all: use a whole number from"),
        (["optim.lr=1,2", "sweep.parallel=1,2"], "sweep.parallel is the same in all trials"),
        (
            ["optim.lr=1,2", "sweep.parallel=16"],  # conftest.py simulates eight devices
            "sweep.parallel=16: more than there are simulated devices for this process, 8: use at "
            "most 8, or auto",
        ),
        (
            ["optim.lr=1,2", "sweep.parallel=3"],
            "sweep.parallel=3 does not divide 8 simulated devices: use a divisor of 8 (1, 2, 4, 8)",
        ),
        (
            ["hydra/sweeper=search", "optim.lr=1,2", "sweep.parallel=auto"],
            "sweep.parallel=auto: hydra/sweeper=search proposes as many trials at a time",
        ),
        (["optim.lr=1,2", "hydra.sweep.dir=x"], "run.dir place the sweep"),
        (["optim.lr=1,2", "hydra/launcher=joblib"], "hydra/launcher=joblib"),
        (["optim.lr=1,2", "hydra/sweeper=optuna"], "hydra/sweeper=search"),
        (["optim.lr=1,2", "--cfg", "job"], "python -m trainer -m --help"),
        (["optim.lr=1,2", "--member", "2"], "--member 2: the sweep has 2 trials: use 0 to 1"),
        (["optim.lr=1,2", "--member", "-1"], "--member -1"),
        (["optim.lr=1,2", "--member", "x"], "--help"),
        (["hydra/sweeper=search", "--member", "0", "optim.lr=1,2"], "leave out --members"),
        (["hydra/sweeper=search", "train.epochs=1"], "no option has several values"),
        (["hydra/sweeper=search", "optim.lr=1,2", "hydra.sweep.dir=x"], "hydra.sweep.dir=x"),
        (["hydra/sweeper=search", "optim.lr=1,2", "hydra.sweeper.params=1"], "sweeper.params"),
        (["hydra/sweeper=search", "optim.lr=1,2", "hydra.sweeper.n_trials=x"], "n_trials=x: use"),
        (["hydra/sweeper=search", "optim.lrr=interval(1,2)"], "did you mean optim.lr?"),
    ],
)
def test_a_wrong_command_line_is_refused_at_once(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        command.multirun(["-m", "+experiment=smoke", *arguments], StopRequest())
    assert message in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sweep"),
    [
        (["-m", "optim.lr=1,2"], True),
        (["optim.lr=1,2", "--multirun"], True),
        (["--multi", "optim.lr=1,2"], True),
        (["hydra.mode=MULTIRUN", "optim.lr=1,2"], True),
        (["optim.lr=1"], False),
        (["--mode", "optim.lr=1"], False),
    ],
)
def test_when_a_command_line_asks_for_a_sweep(arguments, sweep):
    assert program._asks_for_sweep(arguments) == sweep


def test_a_sweep_of_several_processes_is_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    with pytest.raises(ConfigError, match=r"2 processes were started.*\n?.*--member"):
        command.multirun(["-m", "+experiment=smoke", "optim.lr=1,2"], StopRequest())
    assert not list(tmp_path.iterdir())


def test_the_sweep_itself_does_not_import_jax():
    code = "import sys; from trainer.sweep import command, search; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_trials_are_listed(capsys):
    assert command.multirun(["--members", "-m", "optim.lr=1,2", "run.seed=0"], StopRequest()) == 0
    assert capsys.readouterr().out == "0  optim.lr=1\n1  optim.lr=2\n"


@pytest.mark.parametrize("function", [command.multirun, command.main])
def test_help(function, capsys):
    with pytest.raises(SystemExit) as ended:
        function(["--help"], StopRequest())
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "sweep.csv" in out
    assert "exit codes" in out
