"""A Kubernetes job: the manifests of scripts/k8s with the numbers, image and options of a job."""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from trainer.config.schema import RunConfig
from trainer.job.errors import ConfigError

PLACEHOLDER = "registry.example.com/"  # the image in the overlays, which users replace
IMAGE = re.compile(  # [HOST[:PORT]/]PATH[:TAG][@DIGEST]
    r"([\w.-]+(:\d+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
SHARED = {"cpu", "memory", "nvidia.com/gpu"}  # a pod gets the share of a node that its GPUs are
Run = Callable[[Sequence[str]], str]


class Wanted(NamedTuple):
    """How a job differs from its overlay; None: as in the overlay."""

    name: str | None
    nodes: int
    gpus: int  # per node; 0: train on the CPUs
    image: str | None
    namespace: str | None
    overrides: list[str]


class Rendered(NamedTuple):
    """A job as it would be submitted."""

    text: str  # the manifests, as YAML
    name: str
    namespace: str
    arguments: list[str]  # of the trainer in each pod
    claims: dict[str, str]  # mount path -> name of a writable persistent volume claim
    mounts: list[str]  # the mount paths of all volumes


def kubectl() -> str:
    """Return kubectl on PATH, or else beside python."""
    return shutil.which("kubectl") or str(Path(sys.executable).with_name("kubectl"))


def render(folder: Path, wanted: Wanted, run: Run) -> Rendered:
    """Return the manifests of a job.

    Args:
        folder: scripts/k8s.
        wanted: the job.
        run: runs a program and returns its output.

    Raises:
        ConfigError: Kubernetes would refuse the name or the image.
    """
    suffix = wanted.name or time.strftime("%Y%m%d-%H%M%S")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", suffix):
        raise ConfigError(f"--name={suffix}: use at most 42 of a-z, 0-9 and - between them")
    overlay = folder / "overlays" / ("gpu" if wanted.gpus else "cpu")
    kustomization: dict[str, Any] = {"nameSuffix": f"-{suffix}"}
    if wanted.namespace:
        kustomization["namespace"] = wanted.namespace
    with tempfile.TemporaryDirectory() as scratch:
        # resolve(): kustomize follows links, and ".." would then lead to another folder.
        kustomization["resources"] = [os.path.relpath(overlay, Path(scratch).resolve())]
        Path(scratch, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        objects = list(yaml.safe_load_all(run([kubectl(), "kustomize", scratch])))
    (job,) = (item for item in objects if item["kind"] == "Job")
    _apply(wanted, job["spec"])
    name, namespace = job["metadata"]["name"], job["metadata"].get("namespace", "default")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    if wanted.image is not None and not IMAGE.fullmatch(wanted.image):
        raise ConfigError(f"--image={wanted.image}: use one like REGISTRY/trainer:0.1.0")
    if container["image"].startswith(PLACEHOLDER):
        raise ConfigError(
            f"--image: {container['image']} is a placeholder",
            "give your own image, as pushed to a registry, or write it into scripts/k8s/overlays",
        )
    arguments = [text.replace("$(JOB_NAME)", name) for text in container["args"]]
    claim_of = {v["name"]: v.get("persistentVolumeClaim", {}) for v in pod["volumes"]}
    mounts = {mount["mountPath"]: claim_of[mount["name"]] for mount in container["volumeMounts"]}
    claims = {p: c["claimName"] for p, c in mounts.items() if c and not c.get("readOnly")}
    text = yaml.safe_dump_all(objects, sort_keys=False)
    return Rendered(text, name, namespace, arguments, claims, list(mounts))


def run_directory(run: RunConfig, experiment: str, rendered: Rendered) -> tuple[str, str]:
    """Return the run directory in the pods, and the claim that it is on.

    Raises:
        ConfigError: it is on no claim.
    """
    option = f"run.root={run.root}" if run.dir is None else f"run.dir={run.dir}"
    where = run.dir or posixpath.join(run.root, experiment, run.name or "")
    claim = rendered.claims.get(volume_of(where, rendered))
    if claim is None:
        raise ConfigError(
            f"{option}: no volume keeps this folder when the pods end",
            f"use a folder below {' or '.join(rendered.claims)}",
        )
    return posixpath.normpath(where), claim


def volume_of(path: str, rendered: Rendered) -> str:
    """Return the mount path of the volume that a path is in, or "" where it is in none."""
    path = posixpath.normpath(path)
    mounts = [mount for mount in rendered.mounts if f"{path}/".startswith(f"{mount}/")]
    return max(mounts, key=len, default="")


def _apply(wanted: Wanted, spec: dict[str, Any]) -> None:
    """Write the numbers, the image and the options into the spec of a Job."""
    spec["completions"] = spec["parallelism"] = wanted.nodes
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    if wanted.image:
        container["image"] = wanted.image
    for variable in container["env"]:
        if variable["name"] == "JAX_NUM_PROCESSES":
            variable["value"] = str(wanted.nodes)
    ours = {override.partition("=")[0].lstrip("+") for override in wanted.overrides}
    kept = [text for text in container["args"] if text.partition("=")[0].lstrip("+") not in ours]
    if wanted.gpus:
        limits = container["resources"]["limits"]
        total = int(limits["nvidia.com/gpu"])
        for amounts in (limits, container["resources"]["requests"]):
            for name in SHARED & amounts.keys():
                amounts[name] = _share(amounts[name], wanted.gpus, total)
        for volume in pod["volumes"]:
            if volume["name"] == "shm":
                size = volume["emptyDir"]["sizeLimit"]
                volume["emptyDir"]["sizeLimit"] = _share(size, wanted.gpus, total)
        number = f"cluster.gpus_per_process={wanted.gpus}"
        kept = [number if text.startswith("cluster.gpus_per_process=") else text for text in kept]
    container["args"] = [*wanted.overrides, *(t for t in kept if not t.startswith("+experiment="))]


def _share(amount: str, gpus: int, total: int) -> str:
    """Return the share of some of the GPUs in an amount such as 64Gi, rounded up."""
    number, unit = re.fullmatch(r"(\d+)([A-Za-z]*)", str(amount)).groups()  # type: ignore[union-attr]
    return f"{-(-int(number) * gpus // total)}{unit}"
