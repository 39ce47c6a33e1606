"""scripts/slurm/train.sbatch on two nodes of a real SLURM: how jobs end, and which resume."""

import json
import os
import re
import shlex
import subprocess
import sys
import time

import pytest
from support.slurm_cluster import ROOT, SLURM

from trainer.config.compose import quoted
from trainer.job import directory

JOB = (
    "+experiment=smoke",
    "train.epochs=20",
    "train.steps_per_dispatch=7",
    "checkpoint.every_steps=50",
    "train.pictures_every_epochs=null",
)
STEPS = 20 * 57

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(cluster):
    """A job that nothing happens to, just submitted, in a folder with another `trainer`."""
    (cluster.work / "elsewhere" / "trainer").mkdir(parents=True)
    wrong = cluster.work / "elsewhere" / "trainer" / "__init__.py"
    wrong.write_text("raise SystemExit('the wrong trainer')")
    places = [f"--chdir={wrong.parents[1]}", f"--output={cluster.work}/slurm-%j.out"]
    # JAX_PLATFORMS leaves the GPUs alone. As of a site that lets jobs have few variables.
    few = "--export=JAX_PLATFORMS,TRAINER_CACHE_DIR,TRAINER_VENV"
    return cluster.submit(*JOB, options=["--gpus-per-node=8", few, *places])


@pytest.fixture(scope="module")
def local(tmp_path_factory, whole):
    """The same job in two processes on one host, by scripts/local, while the other runs."""
    folder = tmp_path_factory.mktemp("local")
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [ROOT / "scripts" / "local", "2", *JOB, "run.dir=run"],
        cwd=folder,
        env={**environ, "TRAINER_VENV": sys.prefix},
        check=True,
        capture_output=True,
        timeout=180,
    )
    return json.loads((folder / "run" / "summary.json").read_text())


def check_equal(cluster, job, local):
    summary = cluster.summary(job)
    assert summary["status"] == "completed", cluster.log(job)[-3000:]
    assert (summary["processes"], summary["steps"]) == (2, STEPS)
    assert summary["weights_sha256"] == local["weights_sha256"]


def test_a_job_on_two_nodes_ends_with_the_bits_of_two_local_processes(cluster, whole, local):
    done = cluster.wait_for_end(whole)
    assert (done["JobState"], done["ExitCode"], done["Restarts"]) == ("COMPLETED", "0:0", "0")
    assert "SLURM_PROCID=0 of 2" in cluster.log(whole)
    check_equal(cluster, whole, local)


def test_interrupted_jobs_go_on_by_themselves_to_the_same_bits(cluster, local):
    commands = {
        cluster.submit(*JOB): ("scontrol", "requeue"),
        cluster.submit(*JOB): ("scancel", "--signal=TERM"),
        cluster.submit(*JOB): ("scancel", "--signal=USR1", "--batch"),  # as near the time limit
    }
    for job, command in commands.items():
        cluster.wait_for_checkpoint(job)
        cluster.login(*command, job)
    for job, command in commands.items():
        done = cluster.wait_for_end(job)
        message = f"{command}: {cluster.log(job)[-3000:]}"
        assert (done["JobState"], done["Restarts"]) == ("COMPLETED", "1"), message
        assert cluster.summary(job)["resumed_from_step"] > 0
        check_equal(cluster, job, local)


def test_a_preempted_job_goes_on_afterwards(cluster, local):
    job = cluster.submit(*JOB)
    cluster.wait_for_checkpoint(job)
    urgent = ("--partition=urgent", "--nodes=3", "--exclusive", "--output=urgent.out")
    cluster.login("sbatch", *urgent, "--wrap=sleep 1")
    done = cluster.wait_for_end(job)
    assert (done["JobState"], done["Restarts"]) == ("COMPLETED", "1"), cluster.log(job)[-3000:]
    check_equal(cluster, job, local)


def test_a_power_cut_and_a_pulled_cable_are_survived(cluster, local):
    other = cluster.submit(*JOB, nodes=1, options=["--ntasks-per-node=2"])
    cluster.wait_for_checkpoint(other)
    assert cluster.show(other)["NodeList"] == "n1"
    cluster.login("scancel", "--signal=STOP", other)  # alive, and it keeps the run directory
    cluster.login("ip", "link", "set", "vn1", "down")
    job = cluster.submit(*JOB, options=["--exclude=n1"])
    cluster.wait_for_checkpoint(job)
    cluster.login(SLURM / "node", "cut", "n3")
    cluster.wait_for(other, lambda: "waiting for its end" in cluster.log(other))
    assert f"an earlier attempt of SLURM job {other}" in cluster.log(other)
    cluster.login(SLURM / "node", "cut", "n1")
    for node in ("n3", "n1"):
        cluster.power_on(job, node)
    for restarted in (job, other):
        done = cluster.wait_for_end(restarted)
        assert done["JobState"] == "COMPLETED", cluster.log(restarted)[-3000:]
        assert int(done["Restarts"]) >= 1
        assert cluster.summary(restarted)["resumed_from_step"] > 0
        check_equal(cluster, restarted, local)


def test_what_must_not_be_retried_is_not(cluster):
    wrong = cluster.submit(*JOB, "optim.lr=-1")
    no_retry = cluster.submit(*JOB, "train.epochs=100000", options=["--export=ALL,MAX_RESTARTS=0"])
    dead = cluster.submit(*JOB, "train.epochs=100000")
    done = cluster.wait_for_end(wrong)
    assert (done["JobState"], done["ExitCode"], done["Restarts"]) == ("FAILED", "78:0", "0")
    assert "optim.lr=-1" in cluster.log(wrong)
    for job in (no_retry, dead):
        cluster.wait_for_checkpoint(job)
    cluster.login("scancel", "--signal=TERM", no_retry)
    cluster.login("scancel", dead)
    done = cluster.wait_for_end(no_retry)
    assert (done["JobState"], done["ExitCode"], done["Restarts"]) == ("FAILED", "75:0", "0")
    assert "MAX_RESTARTS=0" in cluster.log(no_retry)
    assert cluster.wait_for_end(dead)["JobState"] == "CANCELLED"
    time.sleep(25)  # a job that comes back does so after its credential has expired
    assert cluster.show(dead)["JobState"] == "CANCELLED"


def test_a_task_of_a_job_array_goes_on_by_itself(cluster):
    options = ["--array=0-1", "--output=slurm-%A_%a.out"]
    array = cluster.submit("-m", *JOB, "run.seed=0,1", nodes=1, options=options)
    first, second = f"{array}_0", f"{array}_1"
    folders = "runs/smoke/sweep-*/*run.seed=1*/checkpoints"
    cluster.wait_for(second, lambda: any(map(directory.steps, cluster.work.glob(folders))))
    cluster.login("scancel", "--signal=TERM", second)
    for job, restarts in ((first, "0"), (second, "1")):
        done = cluster.wait_for_end(job)
        message = cluster.log(job)[-3000:]
        assert (done["JobState"], done["Restarts"]) == ("COMPLETED", restarts), message
    (run,) = cluster.work.glob(folders)
    assert json.loads((run.parent / "summary.json").read_text())["resumed_from_step"] > 0


def test_submit_hands_the_job_over(cluster):
    command = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "trainer", "submit", "slurm")
    odd = cluster.work / 'it\'s "my" $HOME, * (1)'
    job = ("+experiment=smoke", "train.epochs=1", f"run.root={quoted(odd)}")

    def submit(*options):
        lines = cluster.login(*command, *options, *job).splitlines()
        message = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines)
        return message["submitted"].removeprefix("SLURM job "), message

    held, message = submit("--scheduler-option=--hold")
    assert held in cluster.login(*shlex.split(message["state"]))
    cluster.login(*shlex.split(message["cancel"]))
    assert cluster.show(held)["JobState"] == "CANCELLED"

    number, message = submit("--nodes", "2", "--cpus-per-task", "2")
    assert message["run"] == f"{odd}/smoke/{number}"
    assert message["follow"] == f"tail -F slurm-{number}.out"
    done = cluster.wait_for_end(number)
    assert done["JobState"] == "COMPLETED", cluster.log(number)[-2000:]
    assert done["StdOut"] == f"{cluster.work}/slurm-{number}.out"
    assert json.loads((odd / "smoke" / number / "summary.json").read_text())["processes"] == 2
