"""What `submit k8s` gives to the cluster, and what it says of the job."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.submissions import POD, main, shown, stand_in, told_of

from trainer.job.errors import ConfigError

SCHEMAS = Path(sys.prefix) / "bin" / "kubernetes-validate"


@pytest.mark.parametrize("here", [True, False])
def test_the_image_has_to_contain_the_files_of_the_user(capsys, own_files, here, monkeypatch):
    name = "conf" if here else f"{own_files}/conf"
    if not here:
        (own_files / "other").mkdir()
        (own_files / "other" / "model.py").touch()
        monkeypatch.chdir(own_files / "other")
    assert main(*POD[:-1], "+experiment=first", "--dry-run") == 0
    out, err = capsys.readouterr()
    (job,) = (item for item in yaml.safe_load_all(out) if item["kind"] == "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["args"][:2] == [f"--config-dir={name}", "+experiment=first"]
    assert f"the image must contain model.py, {name}: build one from the trainer's" in err


@pytest.mark.parametrize("gpus", [0, 4])
def test_kubernetes_shows_manifests_that_fit_the_schemas(capsys, tmp_path, gpus):
    numbers = ("--nodes", "4", "--gpus-per-node", str(gpus))
    names = ("--name", "first", "--image", "registry.internal/t:1", "--namespace", "ml")
    out = shown(capsys, "k8s", *numbers, *names, "+experiment=smoke", "run.seed=3")
    objects = list(yaml.safe_load_all(out))
    assert {item["metadata"]["namespace"] for item in objects} == {"ml"}
    assert {item["metadata"]["name"] for item in objects} == {"train-first"}
    (job,) = (item for item in objects if item["kind"] == "Job")
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 4
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert {"name": "JAX_NUM_PROCESSES", "value": "4"} in container["env"]
    assert container["image"] == "registry.internal/t:1"
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
    out = shown(capsys, *POD, "data.download=true")
    assert "data.download=true" in out
    assert "data.download=false" not in out


def test_a_job_of_kubernetes_is_handed_over(capsys, monkeypatch, tmp_path):
    real = Path(sys.prefix) / "bin" / "kubectl"
    apply = f"cat >{tmp_path}/given; echo job.batch/train-a created"
    stand_in(tmp_path, "kubectl", f'[ "$1" = apply ] || exec {real} "$@"\n{apply}')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    job = ("--namespace", "ml", "train.epochs=3")
    message = told_of(capsys, *POD, *job)
    assert (tmp_path / "arguments").read_text().split() == ["apply", "--filename=-"]
    monkeypatch.undo()
    assert (tmp_path / "given").read_text() == shown(capsys, *POD, *job)
    assert message == {
        "submitted": "Kubernetes job train-a in namespace ml",
        "run": "/runs/mlp/train-a on the claim trainer-runs",
        "follow": "kubectl -n ml logs -f job/train-a --all-pods --prefix",
        "state": "kubectl -n ml get job,pods -l batch.kubernetes.io/job-name=train-a",
        "cancel": "kubectl -n ml delete job,service,networkpolicy train-a",
    }


@pytest.mark.parametrize("answer", ["unchanged", "configured"])
def test_a_job_of_kubernetes_that_is_there_already_is_told(monkeypatch, tmp_path, answer):
    real = Path(sys.prefix) / "bin" / "kubectl"
    apply = f"echo service/train-a created; echo job.batch/train-a {answer}"
    stand_in(tmp_path, "kubectl", f'[ "$1" = apply ] || exec {real} "$@"\n{apply}')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ConfigError, match=r"train-a in namespace ml already.*delete it") as error:
        main(*POD, "--namespace", "ml")
    assert "kubectl -n ml delete job,service,networkpolicy train-a" in str(error.value)


def test_a_pod_asks_for_its_gpus_share_of_a_node(capsys):
    objects = yaml.safe_load_all(shown(capsys, *POD, "--gpus-per-node", "1"))
    (pod,) = (x["spec"]["template"]["spec"] for x in objects if x["kind"] == "Job")
    (container,) = pod["containers"]
    (shm,) = (volume for volume in pod["volumes"] if volume["name"] == "shm")
    asked, most = (container["resources"][name] for name in ("requests", "limits"))
    assert (asked["cpu"], asked["memory"], asked["ephemeral-storage"]) == ("2", "8Gi", "1Gi")
    assert (most["cpu"], most["memory"], most["ephemeral-storage"]) == ("4", "8Gi", "4Gi")
    assert most["nvidia.com/gpu"] == "1"
    assert shm["emptyDir"]["sizeLimit"] == "1Gi"


def test_the_run_of_a_pod_lies_where_its_options_say(capsys, monkeypatch, tmp_path):
    real = Path(sys.prefix) / "bin" / "kubectl"
    apply = "echo job.batch/train-a created"
    stand_in(tmp_path, "kubectl", f'[ "$1" = apply ] || exec {real} "$@"\n{apply}')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for override, where in (
        ("run.dir=/runs/x/y", "/runs/x/y"),
        ("run.root=/runs/mine", "/runs/mine/mlp/train-a"),
        ("run.name=b", "/runs/mlp/b"),
    ):
        assert told_of(capsys, *POD, override)["run"] == f"{where} on the claim trainer-runs"
