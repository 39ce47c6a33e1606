"""Pods without a cluster: processes with a network, a host name and volumes of their own.

`Job` does what a kubelet, the cluster's name service and the job controller do for one Indexed Job,
as far as the trainer can tell.
"""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from support.manifests import action, environment, expand, pod_labels, pod_spec

PROJECT = Path(__file__).resolve().parents[2]
# What docker/Dockerfile puts into the image: the program in its working directory, the locked
# packages, variables, and the program that a manifest's `args` are added to. (Before it comes tini,
# which passes signals on; here they reach python directly.)
WORKING_DIRECTORY, VENV = "/app", "/opt/venv"
ENTRY_POINT = ("python", "-m", "trainer")
IMAGE_ENVIRON = {
    "PATH": f"{VENV}/bin:/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONPATH": WORKING_DIRECTORY,
    "TRAINER_RUN_ROOT": "/runs",
    "TRAINER_CACHE_DIR": "/runs/.cache",
}

NUMBERS = itertools.count()

# Runs in a pod's namespaces, as root, before the pod's own program: makes a read-only root from
# this machine's, with new folders in it, and mounts there what the pod may see. Reads lines
# "SOURCE<tab>TARGET<tab>OPTIONS". The new folders need a file system of their own, which overlayfs
# asks of its layers.
MOUNT = r"""
set -eu
hostname "$1"; work="$2"; folders="$3"; shift 3
mount -t tmpfs tmpfs "$work"
root="$work/root"
mkdir "$root" "$work/new"
for folder in $folders; do mkdir -p "$work/new$folder"; done
mount -t overlay overlay -o "ro,lowerdir=$work/new:/" "$root"
for folder in proc sys dev; do mount --rbind "/$folder" "$root/$folder"; done
while IFS='	' read -r source target options; do
  mount --bind "$source" "$root$target"
  mount -o "remount,bind,$options" "$root$target"
done
exec chroot "$root" "$@" </dev/null
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Network:
    """A switch in a namespace of its own, to which pods are plugged in."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.plugged: list[str] = []
        ip("netns", "add", name)
        ip("-n", name, "link", "add", "switch", "type", "bridge")
        ip("-n", name, "link", "set", "switch", "up")

    def plug(self) -> tuple[str, str, str]:
        """Make a namespace with a new address; return its name, address and link at the switch."""
        number = len(self.plugged) + 1
        pod, link, address = f"{self.name}-{number}", f"link{number}", f"10.77.0.{number}"
        ip("netns", "add", pod)
        self.plugged.append(pod)
        ip("-n", self.name, "link", "add", link, "type", "veth", "peer", "eth0", "netns", pod)
        ip("-n", self.name, "link", "set", link, "master", "switch", "up")
        ip("-n", pod, "address", "add", f"{address}/24", "dev", "eth0")
        ip("-n", pod, "link", "set", "lo", "up")
        ip("-n", pod, "link", "set", "eth0", "up")
        return pod, address, link

    def cut(self, link: str) -> None:
        """Pull a pod's cable."""
        ip("-n", self.name, "link", "set", link, "down")

    def close(self) -> None:
        for name in [*self.plugged, self.name]:
            ip("netns", "delete", name)


class Pod:
    """One attempt of one index."""

    def __init__(self, job: "Job", index: int, attempt: int) -> None:
        self.index = index
        self.evicted = False
        self.log = job.folder / f"{job.name}-{index}.{attempt}.log"
        self.hosts = job.folder / f"{job.name}-{index}.{attempt}.hosts"
        self.network, self.address, self.link = job.network.plug()
        self.names = f"{self.address} {job.name}-{index}.{job.subdomain}"
        self.process: subprocess.Popen[str] | None = None

    def start(self, job: "Job") -> None:
        spec, labels = pod_spec(job.manifest), pod_labels(job.manifest)
        (container,) = spec["containers"]
        given = environment(container, labels)
        context = spec["securityContext"]
        user, group = context["runAsUser"], context["runAsGroup"]
        # Added by Kubernetes itself in an Indexed Job.
        environ = {**IMAGE_ENVIRON, **given, "JOB_COMPLETION_INDEX": str(self.index)}
        command = [
            *("env", "-i", "-C", WORKING_DIRECTORY, *(f"{k}={v}" for k, v in environ.items())),
            *("setpriv", f"--reuid={user}", f"--regid={group}", f"--groups={context['fsGroup']}"),
            *("--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"),
            *ENTRY_POINT,
            *(expand(argument, given) for argument in container["args"]),
        ]
        work = self.log.with_suffix(".root")
        work.mkdir()
        mounts = self._mounts(job, spec, container)
        targets = [target for _, target, _ in mounts if not target.startswith("/etc/")]
        folders = " ".join([*targets, *_hidden_folders()])
        namespaces = ["nsenter", f"--net=/run/netns/{self.network}", "unshare", "--mount", "--uts"]
        host = f"{job.name}-{self.index}"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*namespaces, "bash", "-c", MOUNT, "pod", host, work, folders, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        assert self.process.stdin is not None
        self.process.stdin.writelines("\t".join(map(str, mount)) + "\n" for mount in mounts)
        self.process.stdin.close()

    def _mounts(self, job: "Job", spec: dict, container: dict) -> list[tuple[Path, str, str]]:
        mounts = [
            (PROJECT, WORKING_DIRECTORY, "ro"),
            (Path(sys.prefix), VENV, "ro"),
            (self.hosts, "/etc/hosts", "ro"),
            (Path("/dev/null"), "/etc/resolv.conf", "ro"),
        ]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for mount in container["volumeMounts"]:
            volume = volumes[mount["name"]]
            if claim := volume.get("persistentVolumeClaim"):
                source = job.claims / claim["claimName"]
            else:  # an emptyDir: new in each pod
                source = self.log.with_suffix(f".{mount['name']}")
            if not source.exists():
                source.mkdir()
                os.chown(source, 0, spec["securityContext"]["fsGroup"])
                source.chmod(0o2770)
            options = "ro" if mount.get("readOnly") else "rw"
            mounts.append((source, mount["mountPath"], options))
        return mounts

    def write_hosts(self, others: list["Pod"], domain: str) -> None:
        """Say which names are known in this pod: its own, and what the name service knows."""
        names = self.names.split()[1]
        lines = [
            "127.0.0.1 localhost",
            f"{self.address} {names}.{domain} {names.partition('.')[0]}",
            *(pod.names for pod in others),
        ]
        self.hosts.write_text("\n".join(lines) + "\n")

    @property
    def exit_code(self) -> int | None:
        """The code as a kubelet reports it, with 128 added to a signal's number."""
        code = self.process.poll() if self.process else None
        return 128 - code if code is not None and code < 0 else code


def _hidden_folders() -> list[str]:
    """Return the folders above python that the pod's user could not search on this machine."""
    above = Path(sys.executable).resolve().parents
    return [str(folder) for folder in above if not folder.stat().st_mode & 0o001]


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
