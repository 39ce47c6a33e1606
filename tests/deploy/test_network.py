"""Three processes on three hosts (network namespaces); one is killed, stopped, or cut off."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.network import NUMBERS, Network
from support.program import CACHE

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
        # Of process 0 alone: no host has to know its own name, or has it as one of loopback.
        names = ["127.0.0.1 localhost", "127.0.1.1 host1", f"{plugs[0][1]} host0"]
        hosts.write_text("\n".join(names) + "\n")
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
                "TRAINER_CACHE_DIR": str(CACHE),
            }
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


OPTIONS = (
    *("+experiment=smoke", "run.dir=run", "train.epochs=100000", "train.global_batch_size=48"),
    "train.pictures_every_epochs=null",
    *("checkpoint.every_epochs=50", f"cluster.heartbeat_timeout_seconds={HEARTBEAT}"),
)
VICTIM = 2
HARMS = {
    "killed": lambda hosts: hosts.processes[VICTIM].kill(),
    "stopped": lambda hosts: hosts.processes[VICTIM].send_signal(signal.SIGSTOP),
    "cut off": lambda hosts: hosts.network.cut(hosts.links[VICTIM]),
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Three jobs, which start and lose a process at the same time: harm -> host -> how it ended.

    That is its exit code, the seconds since the harm, and standard error.
    """
    folders = {harm: tmp_path_factory.mktemp("hosts") for harm in HARMS}
    with ExitStack() as stack:
        jobs = {}
        for harm, folder in folders.items():
            jobs[harm] = Hosts(folder, 3, *OPTIONS)
            stack.callback(jobs[harm].close)
        for harm, folder in folders.items():
            wait_for_training(jobs[harm], folder)
        began = time.monotonic()
        for harm, hosts in jobs.items():
            HARMS[harm](hosts)
        waiting = {(harm, i) for harm in HARMS for i in range(3)} - {("stopped", VICTIM)}
        results = {harm: {} for harm in HARMS}
        while waiting and time.monotonic() - began < HEARTBEAT + 15:
            for harm, index in sorted(waiting):
                process = jobs[harm].processes[index]
                if process.poll() is not None:
                    seconds = round(time.monotonic() - began, 1)
                    err = process.stderr.read()
                    results[harm][index] = (process.returncode, seconds, err)
                    waiting.remove((harm, index))
            time.sleep(0.05)
        yield results


def wait_for_training(hosts, folder):
    log = folder / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (log.exists() and '"step": 20,' in log.read_text()):
        assert time.monotonic() < deadline, [p.poll() for p in hosts.processes]
        time.sleep(0.05)


@pytest.mark.parametrize("harm", HARMS)
def test_the_others_end_in_time_and_say_who_was_lost(ends, harm):
    for index in {0, 1, 2} - {VICTIM}:
        code, seconds, err = ends[harm][index]
        assert code == 75, err
        assert f"process {VICTIM}" in err, err
        assert seconds < HEARTBEAT + 10
    if harm == "cut off":
        code, seconds, err = ends[harm][VICTIM]
        assert code not in (0, 65, 70, 74, 78), err
        assert seconds < HEARTBEAT + 10
    # Shown by pytest -rP; docs/reliability.md has a table of them.
    print(f"{harm}: { ({index: end[:2] for index, end in ends[harm].items()}) }")
