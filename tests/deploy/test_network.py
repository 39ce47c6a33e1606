"""Three processes on three hosts (network namespaces): killed, standing still, or cut off."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.pods import NUMBERS, Network

ROOT = Path(__file__).parents[2]
HEARTBEAT = 5

pytestmark = [
    pytest.mark.timed,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None,
        reason="network namespaces need root and iproute2",
    ),
]


class Hosts:
    """Processes of one run, each with an address of its own."""

    def __init__(self, folder, count, *options):
        self.network = Network(f"hosts-{os.getpid()}-{next(NUMBERS)}")
        plugs = [self.network.plug() for _ in range(count)]
        self.links = [link for _, _, link in plugs]
        hosts = folder / "hosts"
        names = [f"{address} host{index}" for index, (_, address, _) in enumerate(plugs)]
        hosts.write_text("\n".join(["127.0.0.1 localhost", *names]) + "\n")
        self.processes = []
        for index, (namespace, _, _) in enumerate(plugs):
            environ = {
                "PATH": os.environ["PATH"],
                "HOME": str(folder),
                "PYTHONPATH": str(ROOT),
                "JAX_PLATFORMS": "cpu",
                "JAX_COORDINATOR_ADDRESS": "host0:8476",
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(index),
            }
            # The name and the hosts file: gloo listens at what the host's own name resolves to.
            enter = (
                f"hostname host{index}; mount --bind {hosts} /etc/hosts; "
                f"exec {sys.executable} -m trainer {' '.join(options)}"
            )
            self.processes.append(
                subprocess.Popen(
                    [
                        *("nsenter", f"--net=/run/netns/{namespace}"),
                        *("unshare", "--mount", "--uts", "bash", "-c", enter),
                    ],
                    cwd=folder,
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def close(self):
        for process in self.processes:
            process.kill()
            process.communicate()
        self.network.close()


@pytest.fixture
def hosts(tmp_path):
    made = Hosts(
        tmp_path,
        3,
        "+experiment=smoke",
        "run.dir=run",
        "train.epochs=100000",
        "train.global_batch_size=48",
        "checkpoint.every_epochs=50",
        f"cluster.heartbeat_timeout_seconds={HEARTBEAT}",
    )
    yield made
    made.close()


def wait_for_training(hosts, folder):
    log = folder / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while not (log.exists() and '"step": 200,' in log.read_text()):
        assert time.monotonic() < deadline, [p.poll() for p in hosts.processes]
        time.sleep(0.05)


@pytest.mark.parametrize("what", ["killed", "stopped", "cut off"])
def test_the_others_end_in_time_and_say_who_was_lost(hosts, tmp_path, what):
    wait_for_training(hosts, tmp_path)
    victim = 2
    began = time.monotonic()
    if what == "killed":
        hosts.processes[victim].kill()
    elif what == "stopped":
        hosts.processes[victim].send_signal(signal.SIGSTOP)
    else:
        hosts.network.cut(hosts.links[victim])
    ended = {}
    for index in range(3):
        if what == "stopped" and index == victim:
            continue
        _, err = hosts.processes[index].communicate(timeout=HEARTBEAT + 10 + 5)
        ended[index] = (hosts.processes[index].returncode, round(time.monotonic() - began, 1))
        if index != victim:
            assert hosts.processes[index].returncode == 75, err
            assert f"process {victim}" in err, err
        elif what == "cut off":
            assert hosts.processes[index].returncode not in (0, 65, 70, 74, 78), err
    assert max(seconds for _, seconds in ended.values()) < HEARTBEAT + 10
    print(f"{what}: {ended}")  # shown by pytest -rP; docs/reliability.md has a table of them
