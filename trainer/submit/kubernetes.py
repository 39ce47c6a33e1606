"""A Kubernetes job: the manifests of scripts/k8s with the numbers, image and options of a job."""

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from trainer.config.compose import Job, compose_each
from trainer.job import processes, resources
from trainer.job.directory import choose
from trainer.job.errors import ConfigError
from trainer.job.stdout import show
from trainer.tracking.terminal import Terminal

PLACEHOLDER = "registry.example.com/"  # the image in the overlays, which users replace
IMAGE = re.compile(  # [HOST[:PORT]/]PATH[:TAG][@DIGEST]
    r"([\w.-]+(:\d+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
SHARED = {"cpu", "memory", "nvidia.com/gpu"}  # a pod gets as large a part of these as of the GPUs


def kubectl() -> str:
    """Return kubectl on PATH, or else beside python."""
    return shutil.which("kubectl") or str(Path(sys.executable).with_name("kubectl"))


def submit(args: argparse.Namespace, job: Job) -> None:
    """Submit a job with the manifests of scripts/k8s; with --dry-run, show them."""
    objects = _manifests(args, resources.home() / "scripts" / "k8s")
    (manifest,) = (item for item in objects if item["kind"] == "Job")
    name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    _fill_in(args, manifest["spec"], pod, container)
    if container["image"].startswith(PLACEHOLDER):
        hint = "give your own image, as pushed to a registry, or write it into scripts/k8s/overlays"
        raise ConfigError(f"--image: {container['image']} is a placeholder", hint)
    (pods,) = compose_each([[word.replace("$(JOB_NAME)", name) for word in container["args"]]])
    where, claim = _run_directory(pods, pod, container)
    _add_files(job, container)
    text = yaml.safe_dump_all(objects, sort_keys=False)
    if args.dry_run:
        show(text.rstrip("\n"))
        return
    answer = processes.output([kubectl(), "apply", "--filename=-"], text)
    delete = f"kubectl -n {namespace} delete job,service,networkpolicy {name}"
    if f"job.batch/{name} created" not in answer.splitlines():
        message = f"--name: there is a job {name} in namespace {namespace} already"
        hint = f"to resume its run, delete it and submit again: {delete}"
        raise ConfigError(f"{message}; nothing was started", hint)
    label = f"batch.kubernetes.io/job-name={name}"
    show(
        f"submitted      Kubernetes job {name} in namespace {namespace}\n"
        f"run            {where} on the claim {claim}\n"
        f"follow         kubectl -n {namespace} logs -f job/{name} --all-pods --prefix\n"
        f"state          kubectl -n {namespace} get job,pods -l {label}\n"
        f"cancel         {delete}"
    )


def _manifests(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Return the objects of the overlay for GPUs or CPUs, named for this job."""
    suffix = args.name or time.strftime("%Y%m%d-%H%M%S")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", suffix):
        raise ConfigError(f"--name={suffix}", "use at most 42 of a-z, 0-9 and - between them")
    if args.image is not None and not IMAGE.fullmatch(args.image):
        raise ConfigError(f"--image={args.image}", "use one like REGISTRY/trainer:0.1.0")
    overlay = folder / "overlays" / ("gpu" if args.gpus_per_node else "cpu")
    kustomization: dict[str, Any] = {"nameSuffix": f"-{suffix}"}
    if args.namespace:
        kustomization["namespace"] = args.namespace
    with tempfile.TemporaryDirectory() as scratch:
        # resolve(): kustomize follows links, and ".." would then lead to another folder.
        kustomization["resources"] = [os.path.relpath(overlay, Path(scratch).resolve())]
        Path(scratch, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return list(yaml.safe_load_all(processes.output([kubectl(), "kustomize", scratch])))


def _fill_in(args: argparse.Namespace, spec: Any, pod: Any, container: Any) -> None:
    """Write the numbers, image and options into the spec of a Job, its pod and its container."""
    gpus = args.gpus_per_node
    spec["completions"] = spec["parallelism"] = args.nodes
    container["image"] = args.image or container["image"]
    for variable in container["env"]:
        if variable["name"] == "JAX_NUM_PROCESSES":
            variable["value"] = str(args.nodes)
    given = {word.partition("=")[0].lstrip("+") for word in args.overrides} | {"experiment"}
    kept = [word for word in container["args"] if word.partition("=")[0].lstrip("+") not in given]
    if gpus:
        kept = [re.sub("^(cluster.gpus_per_process)=.*", rf"\1={gpus}", word) for word in kept]
        limits = container["resources"]["limits"]
        total = int(limits["nvidia.com/gpu"])

        def share(amount: re.Match[str]) -> str:
            return str(-(-int(amount[0]) * gpus // total))  # rounded up

        shm = [v["emptyDir"] for v in pod["volumes"] if v["name"] == "shm"]
        for amounts in (limits, container["resources"]["requests"], *shm):
            for name in amounts.keys() & {*SHARED, "sizeLimit"}:
                amounts[name] = re.sub("^[0-9]+", share, str(amounts[name]))
    container["args"] = [*args.overrides, *kept]


def _add_files(job: Job, container: Any) -> None:
    """Give --config-dir to the pods, and warn of the user's files, which the image must contain."""
    files = [part.module for part in (job.config.model, job.config.data) if part.module]
    files = list(dict.fromkeys(files))
    if given := os.environ.get(resources.CONFIG_DIR):
        folder, project = Path(given), Path.cwd()
        name = str(folder.relative_to(project) if folder.is_relative_to(project) else folder)
        container["args"].insert(0, f"--config-dir={name}")
        files.append(name)
    if files:
        Terminal().warn(
            f"the image must contain {', '.join(files)}: build one from the trainer's, with this "
            "folder copied to /project and WORKDIR /project"
        )


def _run_directory(job: Job, pod: Any, container: Any) -> tuple[str, str]:
    """Return the run directory in the pods, and the persistent volume claim that it is on."""
    claims = {v["name"]: v.get("persistentVolumeClaim") for v in pod["volumes"]}
    mounts = [mount for mount in container["volumeMounts"] if not mount.get("readOnly")]
    kept = {m["mountPath"]: claims[m["name"]]["claimName"] for m in mounts if claims[m["name"]]}
    given = job.config.run
    where = choose(given.root, job.experiment, given.name or "", given.dir)
    where = Path(os.path.normpath(where))  # without ".."
    for path, claim in kept.items():
        if where.is_relative_to(path) and where != Path(path):
            return str(where), claim
    option = f"run.root={given.root}" if given.dir is None else f"run.dir={given.dir}"
    message = f"{option}: no volume keeps this folder when the pods end"
    raise ConfigError(message, f"use a folder below {' or '.join(kept)}")
