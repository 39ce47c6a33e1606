"""The Kubernetes manifests as a cluster sees them: rendered, expanded, judged by their policies."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from uuid import NAMESPACE_DNS, uuid5

import yaml

K8S = Path(__file__).resolve().parents[2] / "scripts/k8s"
BIN = Path(sys.prefix) / "bin"
RELIABILITY = K8S.parent.parent / "docs/reliability.md"
RETRIED = {
    int(code)
    for code in re.findall(
        r"^\| (\d+) \|",
        RELIABILITY.read_text()
        .partition("\n### What schedulers run again\n")[2]
        .partition("\n`")[0],
        re.MULTILINE,
    )
}
UID_LABEL = "batch.kubernetes.io/controller-uid"
JOB_LABEL, SET_LABEL = "batch.kubernetes.io/job-name", "jobset.sigs.k8s.io/jobset-name"
OVERLAYS = ("cpu", "gpu", "jobset")
WITH_PODS = ("data", "tensorboard", *(f"overlays/{name}" for name in OVERLAYS))
WITH_JOBS = ("data", *(f"overlays/{name}" for name in OVERLAYS))
WORKLOADS = ("Deployment", "Job", "JobSet")


@cache
def render_text(folder: Path) -> str:
    """Return what `kubectl apply -k FOLDER` would send to the cluster."""
    command = [BIN / "kubectl", "kustomize", folder]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(folder: Path) -> list[dict]:
    """Return the objects of a kustomization."""
    return list(yaml.safe_load_all(render_text(folder)))


def overlay_of(folder: Path, base: Path, **kustomization) -> list[dict]:
    """Render an overlay on `base`, written into `folder` as a user would write it."""
    folder.mkdir(parents=True)
    kustomization["resources"] = [os.path.relpath(base, folder)]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return render(folder)


def one(objects: list[dict], kind: str) -> dict:
    """Return the only object of a kind."""
    (result,) = (item for item in objects if item["kind"] == kind)
    return result


def as_job(item: dict) -> dict:
    """Return a Job, or the one that the controller makes of a JobSet."""
    if item["kind"] == "Job":
        return item
    (replicated,) = item["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    name = f"{item['metadata']['name']}-{replicated['name']}-0"
    metadata = {**item["metadata"], "name": name}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": replicated["template"]["spec"],
    }


def pod_labels(item: dict) -> dict[str, str]:
    """Return the labels of a workload's pods, with those that its controller adds."""
    if item["kind"] == "Deployment":
        return item["spec"]["template"]["metadata"]["labels"]
    job = as_job(item)
    labels = {**job["spec"]["template"]["metadata"]["labels"], JOB_LABEL: job["metadata"]["name"]}
    labels[UID_LABEL] = str(uuid5(NAMESPACE_DNS, job["metadata"]["name"]))
    if item["kind"] == "JobSet":
        labels[SET_LABEL] = item["metadata"]["name"]
    return labels


def pod_spec(item: dict) -> dict:
    """Return what the pods of a Deployment, Job or JobSet are made from."""
    owner = item if item["kind"] == "Deployment" else as_job(item)
    return owner["spec"]["template"]["spec"]


def expand(text: str, environ: dict[str, str]) -> str:
    """Replace $(NAME) by its value, as the kubelet does; an unset name is an error here."""
    return re.sub(r"\$\((\w+)\)", lambda match: environ[match[1]], text)


def environment(container: dict, labels: dict[str, str]) -> dict[str, str]:
    """Return the variables a manifest gives to a container. Later ones may use earlier ones."""
    environ: dict[str, str] = {}
    for variable in container.get("env", []):
        if "value" in variable:
            environ[variable["name"]] = expand(variable["value"], environ)
        else:
            path = variable["valueFrom"]["fieldRef"]["fieldPath"]
            label = re.fullmatch(r"metadata\.labels\['(.+)'\]", path)
            assert label, path
            environ[variable["name"]] = labels[label[1]]
    return environ


def action(job: dict, exit_code: int, disrupted: bool = False) -> str:
    """Return what the job controller does about a failed pod: the first match decides."""
    for rule in job["spec"]["podFailurePolicy"]["rules"]:
        if "onExitCodes" in rule:
            wanted = rule["onExitCodes"]
            if (exit_code in wanted["values"]) == (wanted["operator"] == "In"):
                return rule["action"]
        elif (
            disrupted and {"type": "DisruptionTarget", "status": "True"} in rule["onPodConditions"]
        ):
            return rule["action"]
    return "Count"


def workloads(folders):
    for folder in folders:
        for item in render(K8S / folder):
            if item["kind"] in WORKLOADS:
                yield item


def training(overlay):
    (item,) = workloads([f"overlays/{overlay}"])
    return item


def arguments(item):
    """What the trainer is started with, after Kubernetes has expanded it."""
    (container,) = pod_spec(item)["containers"]
    environ = environment(container, pod_labels(item))
    return [expand(argument, environ) for argument in container["args"]]


def selects(selector, labels):
    return selector.items() <= labels.items()
