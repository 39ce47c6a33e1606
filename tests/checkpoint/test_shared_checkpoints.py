"""Checkpoints of a sharded state, by processes that share a folder."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import in_process
from support.connected import CONNECTED
from support.program import PROGRAM
from support.sharded import assert_restored, opened, shardings

from trainer.job import processes

ROOT = Path(__file__).parents[2]
TOGETHER = f"""{CONNECTED}
import pathlib, sys
from support import sharded_process
root, own, *others = sys.argv[1:]
sharded_process.main(pathlib.Path(root), own, others)
"""
LAYOUTS = {"2x2": (2, 2), "4x1": (4, 1)}  # processes and devices of each


def wait_for(condition, started, seconds=240):
    """Wait for something that some processes do, unless one of them fails."""
    deadline = time.monotonic() + seconds
    while not condition():
        failed = [process.communicate()[1] for process in started if process.poll()]
        assert not failed, failed
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_processes_save_and_restore_each_others_checkpoints(trainer, tmp_path):
    with opened(tmp_path / "1x4", "all", 4) as run:
        for step in (1, 2, 3):
            run.save(step)
    (tmp_path / "1x4.done").touch()
    started = []
    for own, (count, devices) in LAYOUTS.items():
        others = [layout for layout in ("1x4", *LAYOUTS) if layout != own]
        program = (sys.executable, "-c", TOGETHER, str(tmp_path), own, *others)
        paths = f"{ROOT}:{ROOT / 'tests'}"
        started += trainer.start_all(count, program=program, devices=devices, PYTHONPATH=paths)
    wait_for(lambda: all(process.poll() == 0 for process in started), started)
    for layout in LAYOUTS:
        for kind, devices in (("all", 8), ("optimizer", 2), ("none", 1)):
            with opened(tmp_path / layout, kind, devices) as run:
                target = shardings(kind, devices)
                assert_restored(run.restore(target), target, 3)


RUN = ("+experiment=smoke", "run.dir=run", "parallel.shard_state=all", "train.epochs=400")
RUN += ("train.steps_per_dispatch=1", "checkpoint.every_steps=10", "checkpoint.max_failed_saves=0")
RUN += ("cluster.heartbeat_timeout_seconds=6", "train.pictures_every_epochs=null")


def ends(process):
    """Wait for the end of a process; return its code, and what it wrote."""
    _, err = process.communicate(timeout=240)
    return process.returncode, err


def test_a_run_survives_processes_that_are_killed_or_cannot_write(trainer, tmp_path):
    folder = tmp_path / "run" / "checkpoints"

    def saved():
        return max((int(path.name) for path in folder.glob("[0-9]*")), default=0)

    first = trainer.start_all(2, *RUN)
    wait_for(lambda: saved() and [*folder.glob("saving-*/process_0*")], first)
    first[1].kill()
    code, err = ends(first[0])
    assert code == 75, err
    assert "lost process 1" in err
    before = saved()

    second = trainer.start_all(2, *RUN)
    wait_for(lambda: saved() > before, second)
    resource.prlimit(second[1].pid, resource.RLIMIT_FSIZE, (10, 10))
    for process in second:
        code, err = ends(process)
        assert code == 74, err
        assert "process 1: [Errno 27] File too large" in err
    before = saved()

    stop = in_process.StopAfter(30)
    done = in_process.train(tmp_path, *RUN, "parallel.devices=4", stop=stop)
    assert done.returncode == 75, done
    assert f"resuming after step {before}" in done.stderr
    assert "damaged" not in done.stderr
    assert saved() > before


def test_hosts_that_do_not_share_the_run_directory_are_refused(trainer, tmp_path):
    """Another file system at its place stands for another disk."""
    (tmp_path / "run").mkdir()
    mount = 'mount -t tmpfs tmpfs run && exec "$@"'
    elsewhere = ("unshare", "-m", "sh", "-c", mount, "sh", *PROGRAM)
    try:
        subprocess.run([*elsewhere[:6], "true"], cwd=tmp_path, capture_output=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("needs root, who may mount a file system, and unshare (util-linux)")
    address = processes.free_address()
    started = [
        trainer.start(*RUN, program=program, **processes.environment({}, 2, index, address))
        for index, program in enumerate((PROGRAM, elsewhere))
    ]
    for process in started:
        code, err = ends(process)
        assert code == 78, err
        assert f"does not have {tmp_path / 'run' / 'checkpoints'}" in err
        assert "Traceback" not in err
