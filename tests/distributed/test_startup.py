"""Processes that do not find each other at the start exit in time, and say why."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.connected import CONNECTED, cluster, variables

from trainer.distributed import initialize
from trainer.distributed.connect import check_gpus
from trainer.distributed.rendezvous import meet
from trainer.distributed.topology import resolve
from trainer.job.errors import ConfigError
from trainer.job.processes import free_address

ROOT = Path(__file__).parents[2]
CLUSTER = ("+experiment=smoke", "run.dir=run", "cluster.startup_timeout_seconds=4")


def check_end(process, code, message):
    _, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    assert message in err
    assert "Traceback" not in err


def test_a_peer_that_never_comes_is_named(trainer, tmp_path):
    options = (*CLUSTER, "cluster.startup_timeout_seconds=1")
    check_end(
        trainer.start(*options, **variables(2, 0, free_address())),
        75,
        "process 1 of 2 did not come within cluster.startup_timeout_seconds=1",
    )
    assert not (tmp_path / "run").exists()


def test_other_options_are_refused_even_behind_a_proxy(trainer):
    """gRPC would ask the proxy for process 0, and hang: the processes would never compare."""
    where = free_address()
    options = [f"optim.lr={lr}" for lr in (0.1, 0.2)]
    proxy = {"http_proxy": "http://127.0.0.1:9"}
    started = [
        trainer.start(*CLUSTER[:2], options[i], **variables(2, i, where), **proxy) for i in (0, 1)
    ]
    for process in started:
        check_end(process, 78, "process 1 was started with other options than process 0")


def test_other_code_is_refused(monkeypatch):
    own = ("digest of the options", "digest of the code")
    for others in ([own], []):
        initialize.check_same([own, *others])
    with pytest.raises(ConfigError, match="process 2 runs other code than process 0"):
        initialize.check_same([own, own, (own[0], "another")])


def test_gpus_that_are_not_there_are_refused():
    with pytest.raises(ConfigError, match=r"2 GPUs expected \(cluster.gpus.*=2\), but jax sees 0"):
        check_gpus(resolve(cluster(gpus_per_process=2), {}))


def test_devices_that_do_not_work_are_refused_by_the_variable(tmp_path):
    program = """
import os, jax
from support.connected import cluster
from trainer.distributed.connect import start_devices
from trainer.distributed.topology import resolve
from trainer.job.errors import ConfigError
for platform in ("cuda", "tpu", "cdua"):
    os.environ["JAX_PLATFORMS"] = platform
    jax.config.update("jax_platforms", platform)
    try:
        start_devices(resolve(cluster(), {}), cluster(), print)
    except ConfigError as error:
        print(error)
"""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done
    for line, platform in zip(lines, ("cuda", "tpu", "cdua"), strict=True):
        assert line.startswith(f"JAX_PLATFORMS={platform}: jax cannot start it")
        assert "JAX_PLATFORMS=cpu" in line


def test_a_process_that_goes_no_further_ends_the_other(trainer):
    """After meeting the others (process 0 or 1), and after connecting; all at the same time."""
    addresses = [free_address() for _ in range(3)]
    others = [trainer.start(*CLUSTER, **variables(2, 1 - i, addresses[i])) for i in (0, 1)]
    meetings = [
        threading.Thread(
            target=meet, args=(resolve(cluster(), variables(2, i, addresses[i])), 60, lambda: False)
        )
        for i in (0, 1)
    ]
    for meeting in meetings:
        meeting.start()
    program = (sys.executable, "-c", f"{CONNECTED}\ntime.sleep(600)")
    trainer.start(program=program, **variables(2, 1, addresses[2]))
    third = trainer.start(*CLUSTER, **variables(2, 0, addresses[2]))
    for process in others:
        check_end(process, 75, "another process met this one, but did not connect within 4 s")
    check_end(third, 75, "another process did not start its devices within 4 s")
    for meeting in meetings:
        meeting.join()


def test_an_error_of_the_trainer_itself_shows_its_traceback(trainer):
    """Another thread prints it, because the process may hang; there is no other process here."""
    program = """
from trainer import __main__
from trainer.distributed import initialize
def fail(*_):
    return {}["an error of the trainer itself"]
initialize.initialize = fail
__main__.main()
"""
    process = trainer.start(
        "+experiment=smoke",
        program=(sys.executable, "-c", program),
        **variables(2, 1, free_address()),
    )
    _, err = process.communicate(timeout=240)
    assert process.returncode == 70, err
    assert err.startswith("Traceback")
    assert err.rstrip().endswith("KeyError: 'an error of the trainer itself'")


def test_gloo_listens_where_process_0_is_reached(trainer):
    """On loopback here, not at the address of this host's name, which may be open to a network.

    By IPv6, because the name of many hosts is an IPv4 address of loopback.
    """
    program = f"""{CONNECTED}
from pathlib import Path
from trainer.distributed.collectives import share
start_devices(topology, options, print)
share(lambda: None)
files = {{os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}}
for family in ("tcp", "tcp6"):
    for line in Path(f"/proc/self/net/{{family}}").read_text().splitlines()[1:]:
        _, local, _, state, *_, inode = line.split()[:10]
        if state == "0A" and f"socket:[{{inode}}]" in files:
            print("listens", local.partition(":")[0])
"""
    outs, where = [], f"[::1]:{free_address().partition(':')[2]}"
    given = [variables(2, i, where) for i in (0, 1)]
    for process in [trainer.start(program=(sys.executable, "-c", program), **v) for v in given]:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        outs.append([line for line in out.splitlines() if line.startswith("listens")])
    assert {line for out in outs for line in out} == {f"listens {'0' * 24}01000000"}, outs
    assert len(outs[1]) == 1  # process 0 also has jax's service
