"""`python -m trainer doctor` on right and wrong set-ups, alone and in two processes."""

import json
import shutil

import pytest
from test_startup import address, variables

DOCTOR = ("doctor", "+experiment=smoke", "--json")


def findings(done):
    return {found["check"]: found for found in json.loads(done.stdout)}


def test_all_is_well(trainer, tmp_path):
    done = trainer(*DOCTOR, "run.root=runs", devices=2)
    assert done.returncode == 0, done.stderr
    found = findings(done)
    assert {one["level"] for one in found.values()} == {"ok"}, found
    assert "jax" in found["versions"]["told"]
    assert "no cluster variables" in found["topology"]["told"]
    assert "2 x cpu here, 2 in all" in found["devices"]["told"]
    assert "4,000 + 1,000 images" in found["data"]["told"]
    assert "2.7 MB" in found["all-reduce"]["told"]
    assert "loss" in found["one step"]["told"]
    assert not list((tmp_path / "runs").iterdir())


def test_two_processes_are_looked_at_together(trainer, tmp_path):
    where = address()
    started = [trainer.start(*DOCTOR, **variables(2, i, where)) for i in (0, 1)]
    outs = [process.communicate(timeout=90) for process in started]
    assert [process.returncode for process in started] == [0, 0], outs
    assert outs[1][0] == "" or "Gloo" in outs[1][0]
    text = outs[0][0]
    found = {one["check"]: one for one in json.loads(text[text.index("[\n") :])}
    assert "process 0 of 2" in found["topology"]["told"]
    assert "2 in all" in found["devices"]["told"]
    assert found["clocks"]["level"] == "ok"


def test_a_missing_process_is_named(trainer):
    options = (*DOCTOR, "cluster.startup_timeout_seconds=2")
    done = trainer(*options, **variables(2, 0, address()))
    assert done.returncode == 69
    meeting = findings(done)["meeting"]
    assert meeting["level"] == "failure"
    assert "process 1 of 2 did not come" in meeting["told"]


def test_several_failures_are_all_told(trainer, tmp_path):
    (tmp_path / "runs").write_text("a file")
    done = trainer(
        *DOCTOR,
        *("run.root=runs", "train.global_batch_size=63", "cluster.gpus_per_process=1"),
        *("train.compilation_cache_dir=/proc/no", "data=mnist", "data.cache_dir=none"),
        "data.download=false",
        devices=2,
    )
    assert done.returncode == 78
    found = findings(done)
    failed = {name for name, one in found.items() if one["level"] == "failure"}
    assert {"batch", "devices", "run directory", "data", "compilation cache"} <= failed
    assert "use a multiple of 2" in found["batch"]["fix"]
    assert "cluster.gpus_per_process=1" in found["devices"]["told"]


def test_a_corrupt_file_of_the_data_set_is_named(trainer, tmp_path, mnist_dir):
    copy = tmp_path / "mnist"
    shutil.copytree(mnist_dir, copy)
    labels = next(copy.glob("t10k-labels*"))
    labels.chmod(0o644)
    labels.write_bytes(labels.read_bytes()[:-5])
    done = trainer(*DOCTOR, "data=mnist", f"data.root={copy}")
    assert done.returncode == 69
    data = findings(done)["data"]
    assert data["level"] == "failure"
    assert labels.name in data["told"] + data["fix"]


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2"}, "start it with srun"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS missing"),
    ],
)
def test_a_wrong_environment_is_told(trainer, environ, told):
    done = trainer(*DOCTOR, **environ)
    assert done.returncode == 78
    topology = findings(done)["topology"]
    assert told in topology["told"] + ": " + topology["fix"]


def test_a_table_for_people(trainer):
    done = trainer("doctor", "+experiment=smoke", "data=mnist", "data.cache_dir=none")
    assert done.returncode == 0, done.stderr
    assert "warning  data" in done.stdout
    assert "fix: run doctor with --download" in done.stdout
    missing = ("data=mnist", "data.cache_dir=none", "data.download=false")
    done = trainer("doctor", "+experiment=smoke", *missing)
    assert done.returncode == 69
    assert f"\n{'':33}Three ways out:" in done.stdout


def test_a_typo_is_told_as_everywhere(trainer):
    done = trainer("doctor", "optim.lrr=1")
    assert done.returncode == 78
    assert "did you mean optim.lr?" in done.stderr
    assert "Traceback" not in done.stderr
