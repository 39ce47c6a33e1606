"""An Indexed Job without a cluster: starts and replaces its pods as the job controller does."""

import json
import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from support.manifests import action, pod_spec
from support.network import NUMBERS, Network
from support.pods import Pod


class Job(threading.Thread):
    """An Indexed Job that runs: starts its pods, and replaces them as its policy says."""

    BACKOFF = 2.0  # seconds before an index's first restart (10 in Kubernetes), then doubled

    def __init__(self, manifest: dict, claims: Path, late: dict[int, float] | None = None) -> None:
        """Describe the job.

        Args:
            manifest: the rendered Job.
            claims: folder of the volumes, one folder a claim; jobs may share it.
            late: index -> seconds that its first pod waits for a node.
        """
        super().__init__(daemon=True)
        self.manifest, self.claims = manifest, claims
        self.name = manifest["metadata"]["name"]
        self.folder = claims.parent / self.name  # logs, and what the pods have for themselves
        self.folder.mkdir()
        self.spec = manifest["spec"]
        self.subdomain = pod_spec(manifest)["subdomain"]
        self.network = Network(f"pods-{os.getpid()}-{next(NUMBERS)}")
        self.pods: dict[int, Pod] = {}
        self.ended: list[tuple[int, int, str]] = []  # index, exit code, what was done about it
        self.status = "running"
        self.closing = False
        self._due = {i: time.monotonic() for i in range(self.spec["completions"])}
        for index, seconds in (late or {}).items():
            self._due[index] += seconds

    def run(self) -> None:
        while self.status == "running" and not self.closing:
            for index in range(self.spec["completions"]):
                self._look_after(index)
            time.sleep(0.05)
        for pod in self.pods.values():  # of a job that has succeeded or failed
            if pod.exit_code is None and pod.process:
                pod.process.terminate()

    def _look_after(self, index: int) -> None:
        pod = self.pods.get(index)
        if pod is None:
            if time.monotonic() >= self._due.get(index, float("inf")):
                self._start(index)
        elif pod.exit_code is not None:
            del self.pods[index]
            del self._due[index]
            self._write_hosts()
            if pod.exit_code == 0:
                self.ended.append((index, 0, "Succeeded"))
                if str(index) in self.spec["successPolicy"]["rules"][0]["succeededIndexes"]:
                    self.status = "succeeded"
            else:
                self._failed(pod)

    def _start(self, index: int) -> None:
        attempt = len([1 for ended, *_ in self.ended if ended == index])
        self.pods[index] = pod = Pod(self, index, attempt)
        self._write_hosts()
        pod.start(self)

    def _write_hosts(self) -> None:
        # A headless service names the pods that have an address.
        for pod in self.pods.values():
            pod.write_hosts(list(self.pods.values()), "trainer.svc.cluster.local")

    def _failed(self, pod: Pod) -> None:
        assert pod.exit_code is not None
        index, done = pod.index, action(self.manifest, pod.exit_code, pod.evicted)
        self.ended.append((index, pod.exit_code, done))
        before = [what for ended, _, what in self.ended if ended == index]
        if done == "FailJob" or before.count("Count") > self.spec["backoffLimitPerIndex"]:
            assert self.spec["maxFailedIndexes"] == 0
            self.status = "failed"
        else:
            self._due[index] = time.monotonic() + self.BACKOFF * 2 ** (len(before) - 1)

    def report(self) -> str:
        """Return what happened, for a failing test."""
        logs = sorted(self.folder.glob("*.log"))
        tails = [f"{log.name}: ...{log.read_text()[-600:]}" for log in logs]
        return "\n".join([f"{self.status}: {self.ended}", *tails])

    def wait(self, seconds: float, until=lambda: False) -> None:
        """Wait until something is true or the job has ended."""
        deadline = time.monotonic() + seconds
        while not until() and self.is_alive():
            assert time.monotonic() < deadline, self.report()
            time.sleep(0.05)

    @property
    def directory(self) -> Path:
        """The run directory, if there is one yet."""
        (path,) = [*self.claims.glob(f"trainer-runs/*/{self.name}")] or [self.folder / "none"]
        return path

    def step(self) -> int:
        """Return the last step in the log of the run."""
        log = self.directory / "metrics.jsonl"
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        return max((json.loads(line)["step"] for line in lines if line[-1] == "\n"), default=0)

    def summary(self) -> dict:
        """Return how the run ended, as its own directory tells."""
        return json.loads((self.directory / "summary.json").read_text())

    def evict(self, index: int) -> None:
        """End a pod as a preemption does: with a signal first, and a mark on it."""
        pod = self.pods[index]
        pod.evicted = True
        pod.process.terminate()

    def close(self) -> None:
        self.closing = True
        self.join()
        for pod in self.pods.values():
            if pod.process:
                pod.process.kill()
                pod.process.wait()
        self.network.close()


@contextmanager
def running(manifest: dict, claims: Path, late: dict[int, float] | None = None):
    """Run a job; at the end of the block nothing of it is left."""
    job = Job(manifest, claims, late)
    try:
        job.start()
        yield job
    finally:
        job.close()
