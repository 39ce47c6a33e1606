"""A real SLURM of emulated nodes, and jobs submitted to it as its users do."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from trainer.job import directory

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "tests" / "slurm"
SCRIPT = ROOT / "scripts" / "slurm" / "train.sbatch"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


class Cluster:
    """A running cluster, and the jobs submitted to it."""

    def __init__(self, folder, work):
        self.folder, self.work = folder, work

    def ask(self, *command):
        """Run a command on the login node; return how it ended."""
        return subprocess.run(
            [SLURM / "login", self.folder, *command],
            cwd=self.work,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.work),
                "JAX_PLATFORMS": "cpu",
                "TRAINER_VENV": sys.prefix,
                "TRAINER_CACHE_DIR": str(self.work / "cache"),
            },
            capture_output=True,
            text=True,
        )

    def login(self, *command):
        """Run a command that has to succeed; return what it printed."""
        done = self.ask(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, *overrides, options=(), nodes=2):
        runs = f"run.root={self.work / 'runs'}"
        command = ("sbatch", "--parsable", f"--nodes={nodes}", *options, SCRIPT, runs, *overrides)
        return self.login(*command).strip()

    def show(self, job):
        """Return the fields of a job as SLURM knows them."""
        text = self.login("scontrol", "show", "job", "--oneliner", job)
        return dict(re.findall(r"(\w+)=(\S*)", text))

    def log(self, job):
        path = self.work / f"slurm-{job}.out"
        return path.read_text() if path.exists() else ""

    def wait_for(self, job, condition, seconds=240):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{self.show(job)}\n{self.log(job)[-3000:]}"
            time.sleep(0.2)

    def wait_for_checkpoint(self, job):
        checkpoints = self.work / "runs" / "smoke" / job / "checkpoints"
        self.wait_for(job, lambda: directory.steps(checkpoints))
        assert self.show(job)["JobState"] == "RUNNING", "it ended before it was interrupted"

    def power_on(self, job, node):
        """Power a node on that was lost, and wait until SLURM uses it again."""

        def field(name):
            text = self.login("scontrol", "show", "node", "--oneliner", node)
            return re.search(rf" {name}=(\S*)", text)[1]

        self.wait_for(job, lambda: field("State").startswith("DOWN"))
        before = field("SlurmdStartTime")
        self.login(SLURM / "node", "start", node, "-b")
        # The report of its reboot sets a node down: one that is resumed before it would be again.
        self.wait_for(job, lambda: field("SlurmdStartTime") != before)

        def resumed():  # refused when it is no longer down
            self.ask("scontrol", "update", f"nodename={node}", "state=resume")
            return "DOWN" not in field("State")

        self.wait_for(job, resumed)

    def wait_for_end(self, job):
        self.wait_for(job, lambda: self.show(job)["JobState"] in ENDED)
        return self.show(job)

    def summary(self, job):
        return json.loads((self.work / "runs" / "smoke" / job / "summary.json").read_text())


@contextmanager
def running():
    """Start a cluster of three nodes; skip the test where this machine cannot."""
    # A short path: sockets lie in it.
    folder, work = Path(tempfile.mkdtemp(prefix="slurm-")), Path(tempfile.mkdtemp(prefix="jobs-"))
    message = work / "up.log"
    with message.open("w") as log:
        command = [SLURM / "up", folder, "--until-eof"]
        environ = {**os.environ, "NODES": "3"}
        up = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=log, stderr=log)
    code = up.wait(240)
    if code == 69:
        up.stdin.close()
        reason = message.read_text().strip()
        shutil.rmtree(folder)
        shutil.rmtree(work)
        pytest.skip(reason)
    assert code == 0, message.read_text()
    yield Cluster(folder, work)
    up.stdin.close()
    subprocess.run([SLURM / "down", folder], check=True)
    shutil.rmtree(work, ignore_errors=True)
