"""A pod without a cluster: a process with a network, a host name and volumes of its own.

`Pod` does what a kubelet and the name service do, as far as the trainer can tell.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from support.manifests import environment, expand, pod_labels, pod_spec

if TYPE_CHECKING:
    from support.indexed_job import Job

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


class Pod:
    """One attempt of one index."""

    def __init__(self, job: Job, index: int, attempt: int) -> None:
        self.index = index
        self.evicted = False
        self.log = job.folder / f"{job.name}-{index}.{attempt}.log"
        self.hosts = job.folder / f"{job.name}-{index}.{attempt}.hosts"
        self.network, self.address, self.link = job.network.plug()
        self.names = f"{self.address} {job.name}-{index}.{job.subdomain}"
        self.process: subprocess.Popen[str] | None = None

    def start(self, job: Job) -> None:
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

    def _mounts(self, job: Job, spec: dict, container: dict) -> list[tuple[Path, str, str]]:
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

    def write_hosts(self, others: list[Pod], domain: str) -> None:
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
