"""One job a run directory: an attempt of it that is started again waits for the one before."""

import json
import os
import signal
from pathlib import Path

import pytest

from trainer.job import lock
from trainer.job.errors import ConfigError

JOB = (
    "+experiment=smoke",
    "run.dir=run",
    "train.steps_per_dispatch=1",
    "checkpoint.every_steps=50",
    "train.pictures_every_epochs=null",
)


def waiting(seconds):
    return f"cluster.startup_timeout_seconds={seconds}"


def start(trainer, job, restart, *options):
    """Start both tasks of a SLURM job on this host, as `srun` does after so many restarts."""
    environ = {
        "SLURM_JOB_ID": job,
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_NODEID": "0",
        **({"SLURM_RESTART_COUNT": str(restart)} if restart else {}),
    }
    tasks = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in (0, 1)]
    return [trainer.start(*JOB, *options, **environ, **task) for task in tasks]


def ends(processes):
    message = [process.communicate(timeout=240)[1] for process in processes]
    return [process.returncode for process in processes], message


def wait_until_it_says(process, text):
    lines = []
    for line in process.stderr:  # until it ends
        lines.append(line)
        if text in line:
            return
    raise AssertionError(lines)


def test_who_holds_it_is_not_told_of_those_that_share_it(tmp_path):
    with lock.hold(tmp_path):
        pass
    refused = pytest.raises(ConfigError, match="in use by another job")
    with lock.hold(tmp_path, shared=True), refused, lock.hold(tmp_path):
        pass


@pytest.mark.slow
def test_a_restarted_job_waits_for_an_attempt_that_is_cut_off_but_alive(trainer, tmp_path):
    first = start(trainer, "7", 0, "train.epochs=8")
    trainer.wait_for_step(100)
    for process in first:
        process.send_signal(signal.SIGSTOP)
    message = f"in use by process {first[0].pid} on host"
    # Longer than the 30 s that gloo leaves all processes to make their first connection.
    impatient = start(trainer, "7", 1, "train.epochs=8", waiting(33))

    codes, errs = ends(start(trainer, "8", 0, "train.epochs=8"))
    assert codes == [78, 78], errs
    assert message in errs[0]
    assert "run.name" in errs[0]

    stopped = start(trainer, "7", 2, "train.epochs=8")
    wait_until_it_says(stopped[0], "waiting for its end")
    for process in stopped:
        process.send_signal(signal.SIGTERM)
    assert ends(stopped)[0] == [75, 75]

    codes, errs = ends(impatient)
    assert codes == [75, 75], errs
    assert message in errs[0]
    assert "an earlier attempt of SLURM job 7: waiting for its end" in errs[0]
    assert "run the same command again" in errs[0]

    half, whole = (start(trainer, "7", restart, "train.epochs=8") for restart in (3, 4))
    for processes in (half, whole):
        wait_until_it_says(processes[0], "waiting for its end")
    for process in (half[1], *first):
        process.kill()
    codes, errs = ends(half)
    assert codes == [75, -signal.SIGKILL], errs
    assert "lost another process at the start" in errs[0]
    assert "Traceback" not in errs[0]
    codes, errs = ends(whole)
    assert codes == [0, 0], errs
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert summary["resumed_from_step"] >= 50


@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused(tmp_path, put):
    put(tmp_path / lock.NAME)
    with pytest.raises(ConfigError, match=r"run\.lock cannot be written .*run\.root=DIR"):
        lock.hold(tmp_path).__enter__()
