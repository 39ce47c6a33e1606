"""What `submit slurm` gives to sbatch, and what it says of the job."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from support.submissions import main, shown, stand_in, told_of

from trainer.job.errors import ConfigError
from trainer.submit import slurm

ROOT = Path(__file__).parents[2]


def test_slurm_shows_the_command(capsys):
    options = ("--nodes", "4", "--gpus-per-node", "8", "--scheduler-option=--partition=gpu")
    out = shown(capsys, "slurm", *options, "+experiment=mlp", "model.hidden_sizes=[64, 64]")
    assert shlex.split(out) == [
        *("sbatch", "--parsable", "--nodes=4", "--gpus-per-node=8", "--partition=gpu"),
        str(ROOT / "scripts" / "slurm" / "train.sbatch"),
        *("+experiment=mlp", "model.hidden_sizes=[64, 64]"),
    ]


def test_slurm_gets_several_tasks_a_node_and_their_processors(capsys):
    options = ("--nodes", "2", "--gpus-per-node", "8", "--tasks-per-node", "4")
    job = ("+experiment=mlp", "cluster.gpus_per_process=2", "train.global_batch_size=32")
    out = shown(capsys, "slurm", *options, "--cpus-per-task", "12", "--name", "a", *job)
    assert shlex.split(out) == [
        *("sbatch", "--parsable", "--nodes=2", "--gpus-per-node=8", "--ntasks-per-node=4"),
        *("--cpus-per-task=12", "--job-name=a", str(ROOT / "scripts" / "slurm" / "train.sbatch")),
        *job,
    ]


@pytest.mark.parametrize("sweep", [(), ("-m", "run.seed=0,1")])
def test_a_job_of_slurm_gets_the_config_dir_as_an_option(capsys, own_files, sweep):
    words = shlex.split(shown(capsys, "slurm", *sweep, "+experiment=first"))
    assert f"--config-dir={own_files}/conf" in words[words.index(f"{ROOT / slurm.SCRIPT}") :]


def test_a_sweep_is_a_job_array(capsys):
    command = ("-m", "+experiment=mlp", "optim.lr=0.02,0.05,0.1", "run.seed=0,1,2")
    out = shown(capsys, "slurm", "--nodes", "2", "--at-once", "4", *command)
    assert shlex.split(out) == [
        *("sbatch", "--parsable", "--nodes=2", "--array=0-8%4", "--output=slurm-%A_%a.out"),
        *(str(ROOT / "scripts" / "slurm" / "train.sbatch"), "-m", *command[1:]),
    ]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--ntasks-per-node=3", "--tasks-per-node"),
        ("--nodes=8", "use --nodes"),
        ("-N8", "use --nodes"),
        ("-n", "--tasks-per-node"),
        ("--gpus-per-task=1", "--gpus-per-node, --tasks-per-node"),
        ("-G4", "--gpus-per-node"),
        ("--gres=gpu:2", "--gpus-per-node"),
        ("--array=0-3", "-m"),
        ("--chdir=/x", "run.root=DIR"),
        ("partition=gpu", "--scheduler-option=--partition=gpu"),
        ("-", "--scheduler-option=--partition=gpu"),
    ],
)
def test_options_of_sbatch_that_change_what_was_checked_are_refused(option, message):
    with pytest.raises(ConfigError) as error:
        main("slurm", f"--scheduler-option={option}", "+experiment=smoke")
    assert f"--scheduler-option={option}" in str(error.value)
    assert message in str(error.value)


def test_other_options_of_sbatch_go_through(capsys):
    given = (
        "--partition=gpu",
        "-pgpu",
        "--gres-flags=enforce-binding",
        "--nodelist=n1",
        "--exclusive",
    )
    options = [f"--scheduler-option={option}" for option in given]
    assert set(given) <= {*shlex.split(shown(capsys, "slurm", *options, "+experiment=smoke"))}


@pytest.mark.parametrize("value", ["abc", "-1", "99999999999999999999", "1e2", "08", ""])
def test_the_batch_script_refuses_wrong_numbers_of_restarts(value):
    script = ["bash", ROOT / "scripts" / "slurm" / "train.sbatch"]
    environ = {"SLURM_JOB_ID": "1", "SLURM_SUBMIT_DIR": "/nowhere", "MAX_RESTARTS": value}
    done = subprocess.run(script, env={**os.environ, **environ}, capture_output=True, text=True)
    assert done.returncode == 78
    ok = value in ("08", "")
    assert ("/nowhere is not a checkout" in done.stderr) == ok
    wrong = f"MAX_RESTARTS={value}: use a whole number from 0 to 9999"
    assert (wrong in done.stderr) != ok


def test_the_log_and_the_run_of_a_slurm_job_are_told(capsys, monkeypatch, tmp_path):
    stand_in(tmp_path, "sbatch", "echo '12;cluster'")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    message = told_of(capsys, "slurm", "+experiment=smoke")
    assert message == {
        "submitted": "SLURM job 12",
        "run": f"{tmp_path}/runs/smoke/12",
        "follow": "tail -F slurm-12.out",
        "state": "squeue --jobs=12",
        "save, requeue": "scancel --signal=TERM 12",
        "cancel": "scancel 12",
    }
    for options, log in (
        (("--output=x.log",), "x.log"),
        (("--output=a b/%x-%j.log",), "'a b/n-12.log'"),
        (("--output=%x.%A", "--job-name=mine"), "mine.12"),
    ):
        given = [f"--scheduler-option={option}" for option in options]
        message = told_of(capsys, "slurm", "--name", "n", *given, "+experiment=smoke")
        assert message["follow"] == f"tail -F {log}"
    message = told_of(capsys, "slurm", "-m", "+experiment=smoke", "run.seed=0,1")
    assert message["submitted"] == "SLURM job array 12, 2 tasks"
    assert message["a task"] == "tail -F slurm-12_0.out"
    assert message["cancel"] == "scancel 12"
