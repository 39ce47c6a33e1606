"""The manifests of scripts/k8s, with the numbers, image and options of one job."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from trainer.errors import ConfigError

PLACEHOLDER = "registry.example.com/"  # what the overlays say, to be replaced
Run = Callable[[Sequence[str]], str]


class Wanted(NamedTuple):
    """What a job differs in from the overlay it is made of; None: as there."""

    name: str | None
    nodes: int
    gpus: int  # of each node; 0: its CPUs
    image: str | None
    namespace: str | None
    overrides: list[str]


def kubectl() -> str:
    """Return the program: on PATH, else beside python."""
    return shutil.which("kubectl") or str(Path(sys.executable).with_name("kubectl"))


def render(folder: Path, wanted: Wanted, run: Run) -> tuple[str, str, str]:
    """Return the manifests as YAML, the job's name and its namespace.

    Args:
        folder: scripts/k8s.
        wanted: what is asked for.
        run: runs a program and returns what it prints.

    Raises:
        ConfigError: a name that Kubernetes would refuse.
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
    metadata = job["metadata"]
    text = yaml.safe_dump_all(objects, sort_keys=False)
    return text, metadata["name"], metadata.get("namespace", "default")


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
        container["resources"]["limits"]["nvidia.com/gpu"] = str(wanted.gpus)
        number = f"cluster.gpus_per_process={wanted.gpus}"
        kept = [number if text.startswith("cluster.gpus_per_process=") else text for text in kept]
    container["args"] = [*wanted.overrides, *(t for t in kept if not t.startswith("+experiment="))]
