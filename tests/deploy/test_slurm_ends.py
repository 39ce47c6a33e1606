"""How a job ends on a real SLURM: its time limit, a killed task, and what its tasks' codes mean.

While the job with a time limit waits for its end, `doctor` looks at the cluster.
"""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from support.slurm_cluster import ROOT

JOB = (
    "+experiment=smoke",
    "train.epochs=20",
    "train.steps_per_dispatch=7",
    "checkpoint.every_steps=50",
    "train.pictures_every_epochs=null",
    "cluster.heartbeat_timeout_seconds=150",  # longer than a job stands still here
)

pytestmark = pytest.mark.slow

# What each of two tasks does, and how the job has to end: its code, and how often it ran again.
# They ignore SIGTERM: one that sleeps is killed by SLURM, some time after the other has failed.
KILLED, LOST = "sleep 60", "kill -KILL $$"
REQUEUED = "[[ -n ${SLURM_RESTART_COUNT:-} ]] || scontrol requeue $SLURM_JOB_ID; exit 75"
ENDS = {
    "bad configuration beside a killed task": (("exit 78", KILLED), 78, 0),
    "bad data beside a lost peer": (("exit 75", "exit 65"), 65, 0),
    "not finite beside a lost task": ((LOST, "sleep 1; exit 70"), 70, 0),
    "cannot save beside an aborted task": (("exit 134", "exit 74"), 74, 0),
    "an error of Python itself": (("exit 1", "exit 1"), 1, 0),
    "a task lost each time": ((LOST, "sleep 1; exit 75"), 75, 1),
    "a task killed by SLURM each time": (("exit 75", KILLED), 75, 1),
    "a crash of the interpreter beside a lost peer": (("exit 75", "exit 139"), 139, 0),
    # SLURM's own requeue, as after a preemption, is not counted: MAX_RESTARTS=1 is left.
    "requeued once and saved each time": ((REQUEUED, "exit 75"), 75, 2),
}


def stand_in(folder, *tasks):
    """Make an environment whose Python does what a test wants of each task, instead of training.

    A task begins when both are there: one that SLURM ends before it ignores SIGTERM does nothing.
    It needs the token of the job.
    """
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    cases = "\n".join(f"  {index}) {task} ;;" for index, task in enumerate(tasks))
    python.write_text(
        '#!/bin/bash\ntrap "" TERM\n[[ ${#TRAINER_TOKEN} == 32 ]] || exit 99\n'
        'here="$0.${SLURM_RESTART_COUNT:-0}"\ntouch "$here.$SLURM_PROCID"\n'
        "until [[ -e $here.0 && -e $here.1 ]]; do sleep 0.1; done\n"
        f"case $SLURM_PROCID in\n{cases}\nesac\n"
    )
    python.chmod(0o755)
    return folder


def process_of(cluster, job, task):
    """Return the pid of a task's trainer, as this machine counts them.

    Another cluster that runs at the same time, for other tests, has jobs of the same numbers.
    """
    submitted = f"SLURM_SUBMIT_DIR={cluster.work}"
    wanted = {submitted, f"SLURM_JOB_ID={job}", f"SLURM_PROCID={task}"}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if wanted <= set(environ) and command[1:3] == [b"-m", b"trainer"]:
            return int(folder.name)
    raise AssertionError(f"task {task} of job {job} does not run")


@pytest.fixture(scope="module")
def jobs(cluster):
    """The jobs of all tests below, started together; what is to happen to them has happened."""
    two_tasks = ("--ntasks-per-node=2", "--gpus-per-task=1")
    started = {
        "unbroken": cluster.submit(*JOB, options=two_tasks, nodes=1),
        "alone": cluster.submit(*JOB, nodes=1),
        # The warning comes after 30 to 60 s. One process: gloo gives up a peer that stands still.
        "limited": cluster.submit(*JOB, options=["--time=2", "--signal=B:USR1@60"], nodes=1),
        "killed": cluster.submit(*JOB),
    }
    cluster.wait_for_checkpoint(started["limited"])
    # It stands still, so that the warning finds it at work on a machine of any speed.
    cluster.login("scancel", "--signal=STOP", started["limited"])
    cluster.wait_for_checkpoint(started["killed"])
    os.kill(process_of(cluster, started["killed"], 1), signal.SIGKILL)
    for name, (tasks, _, _) in ENDS.items():
        venv = stand_in(cluster.work / name.replace(" ", "-"), *tasks)
        # The folder for temporary files is of the host of sbatch, and not on the nodes.
        options = [f"--export=ALL,MAX_RESTARTS=1,TRAINER_VENV={venv},TMPDIR=/nonexistent"]
        started[name] = cluster.submit(options=options)
    sweep = ("-m", *JOB, "train.epochs=1", "run.seed=0,1", "sweep.parallel=2")
    started["a sweep"] = cluster.submit(*sweep, nodes=1)
    started["an array of no sweep"] = cluster.submit(options=["--array=0"], nodes=1)
    return started


def check_equal(cluster, job, unbroken):
    cluster.wait_for_end(unbroken)
    whole, result = cluster.summary(unbroken), cluster.summary(job)
    assert result["resumed_from_step"] > 0
    for key in ("status", "steps", "processes", "weights_sha256"):
        assert result[key] == whole[key], cluster.log(job)[-3000:]


TRAINER = f"env PYTHONPATH={ROOT} {sys.executable} -m trainer"
DOCTOR = f"{TRAINER} doctor +experiment=smoke --json"


def findings(done):
    return {one["check"]: one for one in json.loads(done.stdout)}


def test_doctor_finds_an_allocation_well(cluster, jobs):
    runs = f"run.root={cluster.work}/looked"
    done = cluster.ask("srun", "--nodes=2", *DOCTOR.split(), runs)
    assert done.returncode == 0, done.stdout + done.stderr
    result = findings(done)
    assert {one["level"] for one in result.values()} == {"ok"}, result
    assert "process 0 of 2 (slurm): SLURM_JOB_ID=" in result["topology"]["message"]
    assert "2 processes at n" in result["meeting"]["message"]
    assert "1 x cpu here, 2 in all" in result["devices"]["message"]
    assert "2.7 MB" in result["all-reduce"]["message"]


def test_a_job_is_warned_of_its_time_limit_saves_and_goes_on(cluster, jobs):
    """It runs early: the job stands still until then, and its time limit is two minutes."""
    job = jobs["limited"]
    cluster.wait_for(job, lambda: "warned of the time limit" in cluster.log(job))
    cluster.login("scancel", "--signal=CONT", job)
    done = cluster.wait_for_end(job)
    message = cluster.log(job)
    assert done["JobState"] == "COMPLETED", message[-3000:]
    assert int(done["Restarts"]) >= 1
    assert "saved after step" in message, message
    check_equal(cluster, job, jobs["alone"])


def test_doctor_finds_what_is_wrong_with_an_allocation(cluster, jobs):
    done = cluster.ask("salloc", "--nodes=2", *DOCTOR.split())
    assert done.returncode == 78, done.stdout + done.stderr
    assert "start it with srun" in findings(done)["topology"]["hint"]

    # A run directory that the nodes do not share, and GPUs that jax does not see.
    own = cluster.work / "own"
    script = f"mount -t tmpfs tmpfs {own} && {DOCTOR} run.root={own}; c=$?; umount {own}; exit $c"
    own.mkdir()
    options = ("--nodes=2", "--gpus-per-node=2")
    done = cluster.ask("env", "-u", "JAX_PLATFORMS", "srun", *options, "bash", "-c", script)
    assert done.returncode == 78, done.stdout + done.stderr
    result = findings(done)
    failed = {name for name, one in result.items() if one["level"] == "failure"}
    assert failed == {"devices", "run directory"}, result
    message = "2 GPUs expected (SLURM_GPUS_ON_NODE=2 for 1 tasks a node), but jax sees 0"
    assert message in result["devices"]["message"]
    assert "process 1: " in result["run directory"]["message"]
    assert "all hosts share" in result["run directory"]["hint"]


def test_selftest_proves_itself_in_an_allocation(cluster, jobs):
    done = cluster.ask(
        *("salloc", "--nodes=1", *TRAINER.split(), "selftest", "--json"),
        *("--kills", "1", "--seed", "5", "+experiment=smoke", "train.pictures_every_epochs=null"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"proven": true' in done.stdout


def test_a_job_with_a_killed_task_goes_on(cluster, jobs):
    job = jobs["killed"]
    done = cluster.wait_for_end(job)
    assert (done["JobState"], done["Restarts"]) == ("COMPLETED", "1"), cluster.log(job)[-3000:]
    check_equal(cluster, job, jobs["unbroken"])


def test_two_tasks_on_a_node_with_a_gpu_each(cluster, jobs):
    job = jobs["unbroken"]
    done = cluster.wait_for_end(job)
    assert (done["JobState"], done["Restarts"]) == ("COMPLETED", "0"), cluster.log(job)[-3000:]
    assert done["NumNodes"] == "1"
    assert cluster.summary(job)["processes"] == 2


@pytest.mark.parametrize("name", ENDS)
def test_one_code_that_must_not_be_retried_wins(cluster, jobs, name):
    _, code, restarts = ENDS[name]
    done = cluster.wait_for_end(jobs[name])
    message = cluster.log(jobs[name])
    assert not (cluster.work / f"slurm-{jobs[name]}.restarts").exists()
    result = (done["JobState"], done["ExitCode"], done["Restarts"])
    assert result == ("FAILED", f"{code}:0", str(restarts)), message
    assert ("giving up after 1 restarts" in message) == (restarts > 0)


def test_an_array_that_trains_no_sweep_is_refused(cluster, jobs):
    done = cluster.wait_for_end(jobs["an array of no sweep"])
    assert (done["JobState"], done["ExitCode"]) == ("FAILED", "78:0")
    assert "a sweep: add -m" in cluster.log(jobs["an array of no sweep"])


def test_a_job_trains_the_trials_of_a_sweep_side_by_side(cluster, jobs):
    done = cluster.wait_for_end(jobs["a sweep"])
    log = cluster.log(jobs["a sweep"])
    assert (done["JobState"], done["ExitCode"]) == ("COMPLETED", "0:0"), log[-3000:]
    for seed in (0, 1):
        assert f"{seed + 1}/2 run.seed={seed}: completed" in log
        run = cluster.work / "runs" / "smoke" / jobs["a sweep"] / f"run.seed={seed}"
        # For itself, and not as a task of the job.
        assert "1 process (no cluster variables)" in (run / "output.log").read_text()
