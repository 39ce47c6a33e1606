"""`submit` refuses what a scheduler would refuse or run wrongly, before it queues."""

import os
from pathlib import Path

import pytest
import yaml
from support.submissions import POD, main, shown

from trainer.job.errors import ConfigError, UnavailableError

ROOT = Path(__file__).parents[2]
EIGHT = ("--gpus-per-node", "8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("slurm", "--nodes", "3", "+experiment=mlp"), "use a multiple of 3"),
        (("slurm", "--nodes", "0", "+experiment=mlp"), "submit --help"),
        (("slurm", "--nodes", "2", "optim.lrr=1"), "did you mean optim.lr?"),
        (("slurm", "--node", "2"), "--node is not an option"),
        (("lsf", "--nodes", "2"), "submit --help"),
        (("slurm", "--nodes", "8", "parallel.virtual_shards=4"), "parallel.virtual_shards=4"),
        (("k8s", "--name", "Not_A_Name"), "--name=Not_A_Name"),
        (("slurm", "--nodes", "2", "-m", "train.global_batch_size=8,9"), "use a multiple of 2"),
        (("slurm", "-m", "+experiment=mlp"), "no option has several values"),
        (("slurm", "-m", "hydra/sweeper=search", "optim.lr=1,2"), "depends on the results"),
        (("k8s", "-m", "optim.lr=1,2"), "--multirun is for slurm only"),
        (("slurm", "--gpus-per-node", "4", "parallel.devices=8"), "use at most 4"),
        (("slurm", "parallel.virtual_shards=6"), "use a multiple of 6"),
        (("slurm", "--nodes", "2", "parallel.method=pmap"), "works in one process only"),
        (("slurm", "optim.lr=1,2"), "with -m each is trained"),
        (("slurm", "--nodes", "4", "cluster=single"), "cluster=single: slurm will start 4"),
        (("slurm", "cluster=kubernetes"), "cluster=kubernetes: slurm will start 1"),
        (("k8s", "cluster=slurm"), "cluster=slurm: k8s will start 1"),
        (("slurm", *EIGHT, "cluster.gpus_per_process=3"), "each process will have 8 GPUs"),
        (("slurm", "cluster.num_processes=2"), "cluster.num_processes=2: slurm will start 1"),
        (("slurm", "cluster.gpus_per_process=1"), "each process will have 0 GPUs"),
        (("slurm", *EIGHT, "--tasks-per-node", "3"), "--tasks-per-node=3 does not divide"),
        (("slurm", *EIGHT, "--tasks-per-node", "8", "parallel.devices=2"), "use at most 1"),
        (("slurm", "--tasks-per-node", "3", "+experiment=mlp"), "use a multiple of 3"),
        (("slurm", "--image", "a"), "--image is for k8s only"),
        (("k8s", "--tasks-per-node", "2"), "--tasks-per-node is for slurm only"),
        ((*POD, "run.root=/elsewhere"), "run.root=/elsewhere: no volume keeps"),
        ((*POD, "run.dir=/tmp/a"), "run.dir=/tmp/a: no volume keeps"),
        ((*POD, "run.dir=/runs/../a"), "use a folder below /runs"),
        ((*POD, "run.dir=a"), "use a folder below /runs"),
        ((*POD, "--image=a b"), "--image=a b: use one like REGISTRY/trainer:0.1.0"),
        ((*POD, "--image=Upper"), "--image=Upper: use one like"),
        ((*POD, "--image="), "--image=: use one like"),
    ],
)
def test_a_wrong_job_is_refused_here(arguments, message):
    with pytest.raises(ConfigError) as error:
        main(*arguments, "--dry-run")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "image",
    [
        "trainer",
        "host:5000/team/a__b.c-d:V1.0_x",
        f"ghcr.io/a/b@sha256:{'0a' * 32}",
    ],
)
def test_any_name_of_an_image_is_taken(image, capsys):
    main(*POD, f"--image={image}", "--dry-run")
    assert f"image: {image}\n" in capsys.readouterr().out


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_the_placeholder_of_an_image_is_neither_submitted_nor_shown(dry_run):
    with pytest.raises(ConfigError, match=r"trainer:0\.1\.0 is a placeholder"):
        main("k8s", "--name", "a", *dry_run, "+experiment=smoke")


def test_a_missing_environment_is_refused(monkeypatch):
    monkeypatch.setenv("TRAINER_VENV", "no/venv")
    with pytest.raises(ConfigError, match=f"TRAINER_VENV=no/venv: {ROOT}/no/venv is not an env"):
        main("slurm", "--dry-run", "+experiment=smoke")


def test_data_that_may_be_elsewhere_are_warned_of(capsys):
    main("slurm", "+experiment=mlp", "--dry-run", "data.root=/no/data")
    assert "warning: data.root=/no/data " in capsys.readouterr().err


def test_tasks_at_once_are_of_a_sweep():
    with pytest.raises(ConfigError, match=r"--at-once=2 is for a sweep: add -m"):
        main("slurm", "--at-once", "2", "+experiment=mlp")


def test_gpus_that_the_environment_forbids_are_not_waited_for(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(ConfigError, match=r"JAX_PLATFORMS=cpu.*unset it"):
        main("slurm", "--gpus-per-node", "8", "+experiment=mlp")


def test_a_wrong_number_is_told_in_words():
    for option in ("--nodes", "--at-once"):
        with pytest.raises(ConfigError, match=f"^argument {option}: 0: use a whole number from 1"):
            main("slurm", option, "0")
    with pytest.raises(ConfigError, match="eight: use a whole number from 0 up"):
        main("slurm", "--gpus-per-node", "eight")


def test_fewer_devices_than_are_there_are_counted(capsys):
    job = ("parallel.devices=6", "train.global_batch_size=96")
    assert "--gpus-per-node=8" in shown(capsys, "slurm", "--gpus-per-node", "8", *job)


def test_a_missing_scheduler_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="sbatch: No such file") as error:
        main("slurm", "+experiment=smoke")
    assert error.value.exit_code == 69


def test_a_cluster_that_does_not_answer_is_told(monkeypatch, tmp_path):
    (tmp_path / "config").write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "c",
                "users": [{"name": "u", "user": {}}],
            }
        )
    )
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with pytest.raises(UnavailableError, match="refused"):
        main(*POD)


def test_kubectl_is_needed_to_show_manifests_too(monkeypatch):
    monkeypatch.setattr("trainer.submit.kubernetes.kubectl", lambda: "/nowhere/kubectl")
    with pytest.raises(UnavailableError, match="/nowhere/kubectl: No such file"):
        main("k8s", "--dry-run", "+experiment=smoke")
