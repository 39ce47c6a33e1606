"""`python -m trainer submit`: what would be submitted, and what is refused before it queues."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.program import CACHE

from trainer.job.errors import ConfigError, UnavailableError
from trainer.job.signals import StopRequest
from trainer.submit import command as submit
from trainer.submit import slurm

ROOT = Path(__file__).parents[2]
EIGHT = ("--gpus-per-node", "8")
POD = ("k8s", "--name", "a", "--image", "registry.internal/t:1", "+experiment=mlp")
SCHEMAS = Path(sys.prefix) / "bin" / "kubernetes-validate"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("TRAINER_VENV", sys.prefix)
    monkeypatch.delenv("JAX_PLATFORMS")  # of these tests; it would forbid the GPUs


def main(*arguments):
    return submit.main([*arguments, "--no-plan"], StopRequest())


def shown(capsys, *arguments):
    assert main(*arguments, "--dry-run") == 0
    return capsys.readouterr().out


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


@pytest.fixture
def own_files(tmp_path, monkeypatch):
    """A folder `conf` with the experiment `first`, as --config-dir names it, and a model."""
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults: [override /model: module]\nmodel: {module: model.py}\n"
    (tmp_path / "conf" / "experiment" / "first.yaml").write_text(text)
    (tmp_path / "model.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINER_CONFIG_DIR", str(tmp_path / "conf"))
    return tmp_path


@pytest.mark.parametrize("sweep", [(), ("-m", "run.seed=0,1")])
def test_a_job_of_slurm_gets_the_config_dir_as_an_option(capsys, own_files, sweep):
    words = shlex.split(shown(capsys, "slurm", *sweep, "+experiment=first"))
    assert f"--config-dir={own_files}/conf" in words[words.index(f"{ROOT / slurm.SCRIPT}") :]


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


def test_a_missing_environment_is_refused(monkeypatch):
    monkeypatch.setenv("TRAINER_VENV", "no/venv")
    with pytest.raises(ConfigError, match=f"TRAINER_VENV=no/venv: {ROOT}/no/venv is not an env"):
        main("slurm", "--dry-run", "+experiment=smoke")


def test_data_that_may_be_elsewhere_are_warned_of(capsys):
    main("slurm", "+experiment=mlp", "--dry-run", "data.root=/no/data")
    assert "warning: data.root=/no/data " in capsys.readouterr().err


def stand_in(folder, name, script):
    """Make a program that notes its arguments and its input, for a scheduler out of reach."""
    (folder / name).write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >{folder}/arguments\n{script}\n")
    (folder / name).chmod(0o755)


def told_of(capsys, *arguments):
    assert main(*arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines)


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


def test_tasks_at_once_are_of_a_sweep():
    with pytest.raises(ConfigError, match=r"--at-once=2 is for a sweep: add -m"):
        main("slurm", "--at-once", "2", "+experiment=mlp")


def test_gpus_that_the_environment_forbids_are_not_waited_for(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(ConfigError, match=r"JAX_PLATFORMS=cpu.*unset it"):
        main("slurm", "--gpus-per-node", "8", "+experiment=mlp")


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


FITS = ("slurm", "--gpus-per-node=8", "--dry-run", "+experiment=smoke")


@pytest.fixture
def planning(monkeypatch):
    """A child process may start: it finds the trainer, and its programs in the cache."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TRAINER_CACHE_DIR", str(CACHE))


def test_what_a_job_needs_is_shown(capsys, planning):
    sweep = ("-m", "optim.lr=0.1,0.2", "run.seed=0,1")  # one program for all four
    assert submit.main([*FITS, *sweep, "--device=H100"], StopRequest()) == 0
    out, err = capsys.readouterr()
    assert out.startswith("sbatch ")
    assert re.fullmatch(r"each device needs [\d.]+ MB, by `python -m trainer plan`\n", err)


@pytest.mark.parametrize("command", [FITS, (*POD, "--gpus-per-node=8", "--dry-run")])
def test_what_does_not_fit_is_refused(capsys, planning, command):
    with pytest.raises(ConfigError) as error:
        submit.main([*command, "--device-memory=1MB"], StopRequest())
    message = str(error.value)
    there = "and has 750 kB: JAX takes 75% of 1 MB (by default): use "
    assert re.match(r"each device needs [\d.]+ MB, " + re.escape(there), message)
    assert "parallel.shard_state=optimizer or all" in message
    assert message.endswith(", or devices with more memory")
    assert not capsys.readouterr().out


def test_what_is_not_known_here_is_a_warning(capsys, planning):
    away = ("data=arrays", "data.root=/not/here")
    assert submit.main([*FITS, *away, "--device=H100"], StopRequest()) == 0
    out, err = capsys.readouterr()
    assert out.startswith("sbatch ")
    assert "warning: how much memory the job needs is not known: " in err
    assert "/not/here" in err
