"""`python -m trainer doctor` on right and wrong set-ups, alone and in two processes."""

import json
import os
import shutil
import sys

import pytest
from test_startup import CONNECTED, variables

from trainer.job.processes import free_address

DOCTOR = ("doctor", "+experiment=smoke", "--json")


def table(out):
    """Return the findings, by their checks: nothing else is on standard output."""
    return {found["check"]: found for found in json.loads(out)}


def findings(done):
    return table(done.stdout)


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
    assert "2 devices" in found["mesh"]["told"]
    assert "MB/s read, locks work" in found["run directory"]["told"]
    assert not list((tmp_path / "runs").iterdir())


def test_two_processes_are_looked_at_together(trainer):
    where = free_address()
    started = [trainer.start(*DOCTOR, **variables(2, i, where)) for i in (0, 1)]
    outs = [process.communicate(timeout=90) for process in started]
    assert [process.returncode for process in started] == [0, 0], outs
    assert outs[1][0] == "" or "Gloo" in outs[1][0]
    found = table(outs[0][0])
    assert "process 0 of 2" in found["topology"]["told"]
    assert "2 in all" in found["devices"]["told"]
    assert found["clocks"]["level"] == "ok"


def test_a_missing_process_is_named(trainer):
    options = (*DOCTOR, "cluster.startup_timeout_seconds=2")
    done = trainer(*options, **variables(2, 0, free_address()))
    assert done.returncode == 69
    meeting = findings(done)["meeting"]
    assert meeting["level"] == "failure"
    assert "process 1 of 2 did not come" in meeting["told"]


@pytest.fixture
def beside(trainer):
    """Runs doctor as process 0 of two, beside a process that meets it, connects, and does else."""

    def run(rest, *options):
        where = free_address()
        other = trainer.start(
            program=(sys.executable, "-c", CONNECTED + rest), **variables(2, 1, where)
        )
        done = trainer(*DOCTOR, *options, **variables(2, 0, where))
        other.kill()
        assert "Traceback" not in done.stderr
        return done.returncode, findings(done)

    return run


BEATING = """
from trainer.distributed.heartbeat import Peers
with Peers(60, print):
    cluster.start_devices(topology, options)
    print("started", flush=True)
"""


def test_a_process_that_stands_still_is_named_below_all_that_was_found(beside):
    code, found = beside("time.sleep(600)", "cluster.heartbeat_timeout_seconds=4")
    assert code == 69
    assert found["end"]["told"].startswith("lost process 1 (did not name itself): silent for 4 s")
    assert found["meeting"]["level"] == found["free space"]["level"] == "ok"


def test_a_process_that_hangs_but_lives_ends_the_check_in_time(beside):
    code, found = beside(f"{BEATING}    time.sleep(600)", "cluster.hang_timeout_seconds=4")
    assert code == 69
    assert found["devices"]["level"] == "ok"
    assert found["mesh"]["told"] == "no end within cluster.hang_timeout_seconds=4"


def test_a_process_that_dies_fails_the_collective(beside):
    code, found = beside(f"{BEATING}    cluster.share(lambda: None)\n    os._exit(1)")
    assert code == 69
    failed = [one["check"] for one in found.values() if one["level"] == "failure"]
    assert failed == ["run directory", "end"]
    assert found["mesh"]["level"] == "ok"
    assert found["end"]["told"] == "process 1: did not say what it found"


def test_a_process_that_fails_alone_does_not_keep_the_others(trainer):
    where = free_address()
    first = trainer.start(*DOCTOR, **variables(2, 0, where))
    ill = "import trainer.doctor.devices as d; d.ROUNDS = None; "  # fails behind the first sum
    ill += "from trainer.__main__ import main; main()"
    program = (sys.executable, "-c", ill)
    second = trainer.start(*DOCTOR, program=program, **variables(2, 1, where))
    out, err = first.communicate(timeout=60)
    assert first.returncode == 69, err
    found = table(out)
    assert found["run directory"]["level"] == "ok"
    assert found["all-reduce"]["level"] == "failure"
    assert second.wait(20) == 69


def test_clocks_that_differ_are_told(trainer):
    where = free_address()
    late = "import time; now = time.time; time.time = lambda: now() + 60; "
    late += "from trainer.__main__ import main; main()"
    first = trainer.start(*DOCTOR, **variables(2, 0, where))
    trainer.start(*DOCTOR, program=(sys.executable, "-c", late), **variables(2, 1, where))
    out, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    clocks = table(out)["clocks"]
    assert clocks["level"] == "warning"
    assert clocks["told"].startswith(("60.", "59.9"))
    assert "time service" in clocks["fix"]


@pytest.mark.skipif(os.geteuid() != 0, reason="another host name needs root")
def test_a_host_name_that_is_not_known_is_told(trainer):
    named = 'hostname nowhere.invalid; exec "$0" -m trainer "$@"'
    program = ("unshare", "--uts", "bash", "-c", named, sys.executable)
    out, err = trainer.start(*DOCTOR, program=program).communicate(timeout=60)
    found = table(out)
    assert found["host name"]["level"] == "warning", err
    assert found["host name"]["told"].startswith("nowhere.invalid is not known")
    assert "/etc/hosts" in found["host name"]["fix"]


def test_more_devices_than_there_are_is_a_row(trainer):
    done = trainer(*DOCTOR, "parallel.devices=5", devices=2)
    assert done.returncode == 78
    found = findings(done)
    assert found["mesh"]["told"] == "parallel.devices=5: this process has 2 local devices"
    assert found["mesh"]["fix"].startswith("use at most 2")
    assert found["data"]["level"] == found["run directory"]["level"] == "ok"


def test_devices_that_do_not_work_are_a_row(trainer):
    done = trainer(*DOCTOR, JAX_PLATFORMS="cuda")
    assert done.returncode == 78, done.stderr
    found = findings(done)
    assert found["devices"]["told"].startswith("JAX_PLATFORMS=cuda: jax cannot start it")
    assert "cuda12" in found["devices"]["fix"]
    assert found["free space"]["level"] == "ok"


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
    assert labels.name in data["told"]
    assert data["told"].endswith("all elements are there, but not the checksum behind them")
    assert data["fix"] == "copy or download the file again"


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
    assert f"\n{'':28}fix: Three ways out:\n{'':33}  put these four files" in done.stdout


def test_a_typo_is_told_as_everywhere(trainer):
    done = trainer("doctor", "optim.lrr=1")
    assert done.returncode == 78
    assert "did you mean optim.lr?" in done.stderr
    assert "Traceback" not in done.stderr
