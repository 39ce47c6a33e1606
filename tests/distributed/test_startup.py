"""Processes that do not find each other at the start end in time, and say why."""

import os
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from test_topology import cluster

from trainer.distributed.rendezvous import meet
from trainer.distributed.topology import resolve
from trainer.job.processes import environment, free_address

ROOT = Path(__file__).parents[2]
CONNECTED = """
import os, time
from trainer import cluster
from trainer.config.compose import compose
from trainer.distributed.topology import resolve
options = compose(["+experiment=smoke"])[0].config.cluster
topology = resolve(options, os.environ)
cluster.connect(topology, options, lambda: False)
"""
CLUSTER = ("+experiment=smoke", "run.dir=run", "cluster.startup_timeout_seconds=4")
variables = partial(environment, {})  # of a count of processes, an index and an address


def ends(processes):
    told = [process.communicate(timeout=60)[1] for process in processes]
    return list(zip([process.returncode for process in processes], told, strict=True))


def test_a_peer_that_never_comes_is_named_by_all(trainer, tmp_path):
    where = free_address()
    started = [trainer.start(*CLUSTER, **variables(3, i, where)) for i in (0, 2)]
    for code, err in ends(started):
        assert code == 75, err
        assert "process 1 of 3 did not come" in err
        assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_first_process_that_never_comes_is_named(trainer):
    at_once = "cluster.startup_timeout_seconds=1"
    ((code, err),) = ends([trainer.start(*CLUSTER, at_once, **variables(2, 1, free_address()))])
    assert code == 75, err
    assert "process 0 at 127.0.0.1 did not come" in err


def test_one_number_given_twice_is_refused(trainer):
    where = free_address()
    started = [trainer.start(*CLUSTER, **variables(3, i, where)) for i in (0, 1, 1)]
    for code, err in ends(started):
        assert code == 78, err
        assert "say they are the same process" in err


def test_processes_with_other_options_are_refused(trainer):
    where = free_address()
    options = [f"optim.lr={lr}" for lr in (0.1, 0.2)]
    started = [trainer.start(*CLUSTER, options[i], **variables(2, i, where)) for i in (0, 1)]
    for code, err in ends(started):
        assert code == 78, err
        assert "process 1 was started with other options" in err


def test_processes_with_other_code_are_refused(trainer, tmp_path):
    for part in ("trainer", "conf"):
        shutil.copytree(ROOT / part, tmp_path / "changed" / part)
    with (tmp_path / "changed" / "trainer" / "model.py").open("a") as module:
        module.write("# another line\n")
    where = free_address()
    started = [
        trainer.start(*CLUSTER, **variables(2, i, where), PYTHONPATH=str(path))
        for i, path in enumerate((ROOT, tmp_path / "changed"))
    ]
    for code, err in ends(started):
        assert code == 78, err
        assert "process 1 runs other code than process 0" in err


def test_gpus_that_are_not_there_are_refused(trainer):
    done = trainer("+experiment=smoke", "run.dir=run", "cluster.gpus_per_process=2")
    assert done.returncode == 78
    assert "cluster.gpus_per_process=2" in done.stderr
    assert "jax sees 0" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="another /etc/hosts needs root")
def test_a_name_that_is_known_late_is_waited_for(trainer, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text(Path("/etc/hosts").read_text())
    enter = f'mount --bind {hosts} /etc/hosts && exec "$0" -m trainer "$@"'
    program = ("unshare", "--mount", "bash", "-c", enter, sys.executable)
    where = free_address().replace("127.0.0.1", "late-0.train")
    options = ("+experiment=smoke", "run.dir=run", "train.epochs=1")
    started = [trainer.start(*options, program=program, **variables(2, i, where)) for i in (0, 1)]
    time.sleep(6)
    assert [process.poll() for process in started] == [None, None]
    with hosts.open("a") as file:
        file.write("\n127.0.0.1 late-0.train\n")
    assert [code for code, _ in ends(started)] == [0, 0]


def test_a_process_that_connects_and_then_stands_still_ends_the_other(trainer):
    where = free_address()
    program = (sys.executable, "-c", f"{CONNECTED}\ntime.sleep(600)")
    trainer.start(program=program, **variables(2, 1, where))
    ((code, err),) = ends([trainer.start(*CLUSTER, **variables(2, 0, where))])
    assert code == 75, err
    assert "a process that had connected did not start its devices within 4 s" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("platforms", ["cuda", "tpu", "cdua"])
def test_devices_that_do_not_work_are_refused_by_the_variable(trainer, tmp_path, platforms):
    done = trainer("+experiment=smoke", "run.dir=run", JAX_PLATFORMS=platforms)
    assert done.returncode == 78, done.stderr
    assert f"error: JAX_PLATFORMS={platforms}: jax cannot start it" in done.stderr
    assert "JAX_PLATFORMS=cpu" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_coordinator_is_reached_past_a_proxy(trainer):
    where = free_address()
    processes = [
        trainer.start(
            "+experiment=smoke",
            "run.dir=run",
            "train.epochs=1",
            **variables(2, i, where),
            http_proxy="http://127.0.0.1:9",
        )
        for i in (0, 1)
    ]
    assert [code for code, _ in ends(processes)] == [0, 0]


@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_dies_between_meeting_and_connecting_ends_the_other(trainer, lost):
    where = free_address()
    other = trainer.start(*CLUSTER, **variables(2, 1 - lost, where))
    topology = resolve(cluster(), variables(2, lost, where))
    meet(topology, timeout=60, stop=lambda: False)  # and does nothing more
    ((code, err),) = ends([other])
    assert code == 75, err
    assert "a process that had met the others did not connect within 4 s" in err
    assert "Traceback" not in err
