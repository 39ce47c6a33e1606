"""`python -m trainer submit`: what would be submitted, and what is refused before it queues."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trainer.commands import submit
from trainer.errors import ConfigError, UnavailableError
from trainer.preemption import StopRequest

ROOT = Path(__file__).parent.parent
SCHEMAS = Path(sys.prefix) / "bin" / "kubernetes-validate"


def shown(capsys, *arguments):
    assert submit.main([*arguments, "--dry-run"], StopRequest()) == 0
    return capsys.readouterr().out


def test_slurm_shows_the_command(capsys):
    options = ("--nodes", "4", "--gpus-per-node", "8", "--scheduler-option=--partition=gpu")
    out = shown(capsys, "slurm", *options, "+experiment=mlp", "model.hidden_sizes=[64, 64]")
    assert shlex.split(out) == [
        *("sbatch", "--parsable", "--nodes=4", "--gpus-per-node=8", "--partition=gpu"),
        str(ROOT / "scripts" / "slurm" / "train.sbatch"),
        *("+experiment=mlp", "model.hidden_sizes=[64, 64]"),
    ]


def test_a_sweep_is_a_job_array(capsys):
    command = ("-m", "+experiment=mlp", "optim.lr=0.02,0.05,0.1", "run.seed=0,1,2")
    out = shown(capsys, "slurm", "--nodes", "2", "--at-once", "4", *command)
    assert shlex.split(out) == [
        *("sbatch", "--parsable", "--nodes=2", "--array=0-8%4", "--output=slurm-%A_%a.out"),
        *(str(ROOT / "scripts" / "slurm" / "train.sbatch"), "-m", *command[1:]),
    ]


@pytest.mark.parametrize("gpus", [0, 4])
def test_kubernetes_shows_manifests_that_fit_the_schemas(capsys, tmp_path, gpus):
    numbers = ("--nodes", "4", "--gpus-per-node", str(gpus))
    names = ("--name", "first", "--image", "registry.example.com/t:1", "--namespace", "ml")
    out = shown(capsys, "k8s", *numbers, *names, "+experiment=smoke", "run.seed=3")
    objects = list(yaml.safe_load_all(out))
    assert {item["metadata"]["namespace"] for item in objects} == {"ml"}
    assert {item["metadata"]["name"] for item in objects} == {"train-first"}
    (job,) = (item for item in objects if item["kind"] == "Job")
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 4
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert {"name": "JAX_NUM_PROCESSES", "value": "4"} in container["env"]
    assert container["image"] == "registry.example.com/t:1"
    assert container["args"][:2] == ["+experiment=smoke", "run.seed=3"]
    assert "+experiment=mlp" not in container["args"]
    assert ("cluster.gpus_per_process=4" in container["args"]) == bool(gpus)
    assert container["resources"]["limits"].get("nvidia.com/gpu") == (str(gpus) if gpus else None)
    (tmp_path / "all.yaml").write_text(out)
    checked = subprocess.run(
        [SCHEMAS, "--strict", "-k", "1.36", tmp_path / "all.yaml"], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_an_option_given_replaces_that_of_the_manifest(capsys):
    out = shown(capsys, "k8s", "--name", "a", "+experiment=mlp", "data.download=true")
    assert "data.download=true" in out
    assert "data.download=false" not in out


@pytest.mark.parametrize(
    ("arguments", "told"),
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
        (("k8s", "-m", "optim.lr=1,2"), "only SLURM has"),
        (("slurm", "--gpus-per-node", "4", "parallel.devices=8"), "use at most 4"),
        (("slurm", "parallel.virtual_shards=6"), "use a multiple of 6"),
        (("slurm", "optim.lr=1,2"), "--multirun"),
    ],
)
def test_a_wrong_job_is_refused_here(arguments, told, capsys):
    with pytest.raises(ConfigError) as error:
        submit.main([*arguments, "--dry-run"], StopRequest())
    assert told in str(error.value)


def test_a_wrong_number_is_told_in_words(capsys):
    for option in ("--nodes", "--at-once"):
        with pytest.raises(ConfigError):
            submit.main(["slurm", option, "0"], StopRequest())
        assert f"argument {option}: 0: use a whole number from 1 on" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        submit.main(["slurm", "--gpus-per-node", "eight"], StopRequest())
    assert "eight: use a whole number from 0 on" in capsys.readouterr().err


def test_fewer_devices_than_are_there_are_counted(capsys):
    job = ("parallel.devices=6", "train.global_batch_size=96")
    assert "--gpus-per-node=8" in shown(capsys, "slurm", "--gpus-per-node", "8", *job)


def test_what_a_sweep_of_kubernetes_jobs_needs_is_not_there(trainer):
    done = trainer("submit", "k8s", "-m", "+experiment=smoke", "optim.lr=0.1,0.2")
    assert done.returncode == 78
    assert done.stderr.strip() == (
        "error: submit k8s -m: a sweep is a job array, which only SLURM has: submit its members "
        "one by one"
    )


def test_a_missing_scheduler_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="sbatch: No such file") as error:
        submit.main(["slurm", "+experiment=smoke"], StopRequest())
    assert error.value.exit_code == 69
    assert "--dry-run" in str(error.value)


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
    job = ["k8s", "--name", "a", "+experiment=smoke"]
    with pytest.raises(ConfigError, match="--image: the overlay names a placeholder"):
        submit.main(job, StopRequest())
    with pytest.raises(UnavailableError, match="refused"):
        submit.main([*job, "--image", "localhost/trainer"], StopRequest())


def test_kubectl_is_needed_to_show_manifests_too(monkeypatch):
    monkeypatch.setattr("trainer.commands.kubernetes_job.kubectl", lambda: "/nowhere/kubectl")
    with pytest.raises(UnavailableError, match="/nowhere/kubectl: No such file") as error:
        submit.main(["k8s", "--dry-run", "+experiment=smoke"], StopRequest())
    assert "--dry-run" not in str(error.value)
