"""The manifests of scripts/k8s, with the numbers, image and options of one job."""

from __future__ import annotations

import math
import os
import posixpath
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from trainer.config.schema import RunConfig
from trainer.job.errors import ConfigError

PLACEHOLDER = "registry.example.com/"  # what the overlays say, to be replaced
IMAGE = re.compile(  # [HOST[:PORT]/]PATH[:TAG][@DIGEST]
    r"([\w.-]+(:\d+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
SHARED = ("cpu", "memory", "nvidia.com/gpu")  # of a node, by the pods that take some of its GPUs
Run = Callable[[Sequence[str]], str]


class Wanted(NamedTuple):
    """What a job differs in from the overlay it is made of; None: as there."""

    name: str | None
    nodes: int
    gpus: int  # of each node; 0: its CPUs
    image: str | None
    namespace: str | None
    overrides: list[str]


class Rendered(NamedTuple):
    """A job as it would be submitted."""

    text: str  # the manifests, as YAML
    name: str
    namespace: str
    arguments: list[str]  # of the trainer in each pod
    claims: dict[str, str]  # where the pods see a claim that they may write to -> its name
    mounts: list[str]  # of these and of all other volumes


def kubectl() -> str:
    """Return the program: on PATH, else beside python."""
    return shutil.which("kubectl") or str(Path(sys.executable).with_name("kubectl"))


def render(folder: Path, wanted: Wanted, run: Run) -> Rendered:
    """Return the manifests of a job.

    Args:
        folder: scripts/k8s.
        wanted: what is asked for.
        run: runs a program and returns what it prints.

    Raises:
        ConfigError: a name that Kubernetes would refuse, or no image.
    """
    suffix = wanted.name or time.strftime("%Y%m%d-%H%M%S")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", suffix):
        raise ConfigError(f"--name={suffix}: use at most 42 of a-z, 0-9 and - between them")
    overlay = folder / "overlays" / ("gpu" if wanted.gpus else "cpu")
    kustomization: dict[str, Any] = {"nameSuffix": f"-{suffix}"}
    if wanted.namespace:
        kustomization["namespace"] = wanted.namespace
    with tempfile.TemporaryDirectory() as scratch:
        # Behind the links of the way there, or ".." would lead elsewhere.
        kustomization["resources"] = [os.path.relpath(overlay, Path(scratch).resolve())]
        Path(scratch, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        objects = list(yaml.safe_load_all(run([kubectl(), "kustomize", scratch])))
    (job,) = (item for item in objects if item["kind"] == "Job")
    _fit(job["spec"], wanted)
    name, namespace = job["metadata"]["name"], job["metadata"].get("namespace", "default")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    if wanted.image is not None and not IMAGE.fullmatch(wanted.image):
        raise ConfigError(f"--image={wanted.image}: use one like REGISTRY/trainer:0.1.0")
    if container["image"].startswith(PLACEHOLDER):
        raise ConfigError(
            f"--image: {container['image']} is a placeholder: give your own image, as pushed to a "
            "registry, or write it into scripts/k8s/overlays"
        )
    arguments = [text.replace("$(JOB_NAME)", name) for text in container["args"]]
    claim_of = {v["name"]: v.get("persistentVolumeClaim", {}) for v in pod["volumes"]}
    mounts = {mount["mountPath"]: claim_of[mount["name"]] for mount in container["volumeMounts"]}
    claims = {p: c["claimName"] for p, c in mounts.items() if c and not c.get("readOnly")}
    text = yaml.safe_dump_all(objects, sort_keys=False)
    return Rendered(text, name, namespace, arguments, claims, list(mounts))


def place(run: RunConfig, experiment: str, rendered: Rendered) -> tuple[str, str]:
    """Return the run directory as the pods see it, and the claim that keeps it.

    Raises:
        ConfigError: no claim does.
    """
    option = f"run.root={run.root}" if run.dir is None else f"run.dir={run.dir}"
    where = run.dir or posixpath.join(run.root, experiment, run.name or "")
    claim = rendered.claims.get(volume_of(where, rendered))
    if claim is None:
        raise ConfigError(
            f"{option}: the run would lie in no volume that outlives the pods: use a folder below "
            f"{' or '.join(rendered.claims)}"
        )
    return posixpath.normpath(where), claim


def volume_of(path: str, rendered: Rendered) -> str:
    """Return the mount of the pods that a path lies in, or "" where it is in none."""
    path = posixpath.normpath(path)
    found = [mount for mount in rendered.mounts if f"{path}/".startswith(f"{mount}/")]
    return max(found, key=len, default="")


def _fit(spec: dict[str, Any], wanted: Wanted) -> None:
    """Write the numbers, the image and the options into the job."""
    spec["completions"] = spec["parallelism"] = wanted.nodes
    (container,) = spec["template"]["spec"]["containers"]
    if wanted.image:
        container["image"] = wanted.image
    for variable in container["env"]:
        if variable["name"] == "JAX_NUM_PROCESSES":
            variable["value"] = str(wanted.nodes)
    ours = {override.partition("=")[0].lstrip("+") for override in wanted.overrides}
    kept = [text for text in container["args"] if text.partition("=")[0].lstrip("+") not in ours]
    if wanted.gpus:
        limits = container["resources"]["limits"]
        part = Fraction(wanted.gpus, int(limits["nvidia.com/gpu"]))
        for amounts in (limits, container["resources"]["requests"]):
            shared = {name: amounts[name] for name in SHARED if name in amounts}
            amounts.update({name: _part(amount, part) for name, amount in shared.items()})
        for volume in spec["template"]["spec"]["volumes"]:
            if "sizeLimit" in volume.get("emptyDir", {}) and volume["name"] == "shm":
                volume["emptyDir"]["sizeLimit"] = _part(volume["emptyDir"]["sizeLimit"], part)
        number = f"cluster.gpus_per_process={wanted.gpus}"
        kept = [number if text.startswith("cluster.gpus_per_process=") else text for text in kept]
    container["args"] = [*wanted.overrides, *(t for t in kept if not t.startswith("+experiment="))]


def _part(amount: str, part: Fraction) -> str:
    """Return a part of an amount such as 64Gi, rounded up; one that is no whole number stays."""
    found = re.fullmatch(r"(\d+)([A-Za-z]*)", str(amount))
    return f"{math.ceil(int(found[1]) * part)}{found[2]}" if found else amount
