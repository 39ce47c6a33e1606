"""The Kubernetes manifests render, fit the schemas, and satisfy a linter; pods are hardened."""

import json
import re
import subprocess

import kubernetes_validate
import pytest
import yaml
from support.manifests import (
    BIN,
    K8S,
    WITH_PODS,
    as_job,
    environment,
    pod_labels,
    pod_spec,
    render,
    selects,
    training,
    workloads,
)
from support.pods import ENTRY_POINT, WORKING_DIRECTORY

VERSIONS = ("1.35", "1.36", "1.37")
FOLDERS = ("storage", *WITH_PODS)


def test_every_kustomization_is_among_the_tested():
    kinds = {
        path.parent.relative_to(K8S).as_posix(): yaml.safe_load(path.read_text())["kind"]
        for path in K8S.rglob("kustomization.yaml")
    }
    assert {name for name, kind in kinds.items() if kind == "Kustomization"} == {*FOLDERS, "base"}
    named = [path.name for path in K8S.rglob("*.yaml")]
    assert "Secret" not in {item["kind"] for folder in FOLDERS for item in render(K8S / folder)}
    assert all(name == name.lower() for name in named)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", FOLDERS)
def test_schema(folder, version):
    for item in render(K8S / folder):
        known = as_job(item) if item["kind"] == "JobSet" else item
        assert kubernetes_validate.validate(known, version, strict=True).startswith(version)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas_refuse_a_misspelt_field(version):
    job = training("cpu")
    job["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, version, strict=True)


def test_a_jobset_says_only_what_its_definition_knows():
    item = training("jobset")
    assert item["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    spec = item["spec"]
    assert {*spec} == {"ttlSecondsAfterFinished", "network", "failurePolicy", "replicatedJobs"}
    assert spec["network"] == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}
    (replicated,) = spec["replicatedJobs"]
    assert {*replicated} == {"name", "replicas", "template"}
    assert {*replicated["template"]} == {"spec"}
    policy = spec["failurePolicy"]
    assert policy["maxRestarts"] == training("gpu")["spec"]["backoffLimitPerIndex"]
    (rule,) = policy["rules"]
    assert {*rule} == {"name", "action", "onJobFailureReasons"}
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
    job = as_job(item)["spec"]
    assert job["backoffLimit"] == 0
    assert "backoffLimitPerIndex" not in job
    assert "ttlSecondsAfterFinished" not in job  # the set would miss a Job that is deleted


def trivy(folder, *arguments):
    command = [BIN / "trivy", "config", "--skip-check-update", "--quiet", "--format", "json"]
    done = subprocess.run([*command, *arguments, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["Results"]
    assert results
    return {match["ID"] for result in results for match in result.get("Misconfigurations", [])}


def test_the_security_linter_finds_nothing_unexplained(tmp_path):
    for folder in FOLDERS:
        known = [as_job(i) if i["kind"] == "JobSet" else i for i in render(K8S / folder)]
        (tmp_path / f"{folder.replace('/', '-')}.yaml").write_text(yaml.safe_dump_all(known))
    lines = (K8S / "trivyignore").read_text().splitlines()
    ignored = {line for line in lines if line and not line.startswith("#")}
    for name in ignored:
        assert lines[lines.index(name) - 1].startswith("#"), f"{name} has no reason above it"
    assert trivy(tmp_path) == ignored
    assert trivy(tmp_path, "--ignorefile", K8S / "trivyignore") == set()


def test_the_security_linter_looks(tmp_path):
    job = training("cpu")
    del job["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    assert len(trivy(tmp_path, "--ignorefile", K8S / "trivyignore")) > 2


@pytest.mark.parametrize("folder", WITH_PODS)
def test_pods_are_hardened(folder):
    (item,) = workloads([folder])
    spec = pod_spec(item)
    assert spec["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in spec
    assert not {"hostNetwork", "hostPID", "hostIPC"} & {*spec}
    context = spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == 10001
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        for size in ("requests", "limits"):
            assert {"cpu", "memory", "ephemeral-storage"} <= {*container["resources"][size]}
        assert re.fullmatch(r"[\w./-]+:\d[\w.-]+", container["image"]), "the tag is not pinned"


def test_the_images_are_those_of_the_dockerfile():
    text = (K8S.parent.parent / "docker/Dockerfile").read_text()
    assert {"USER 10001:10001", f"WORKDIR {WORKING_DIRECTORY}"} <= {*text.splitlines()}
    (entry,) = re.findall(r'^ENTRYPOINT (.*"trainer"\])$', text, re.MULTILINE)
    assert json.loads(entry) == ["tini", "--", *ENTRY_POINT]
    titles = {*re.findall(r'image.title="([\w-]+)"', text)}
    for item in (item for folder in WITH_PODS for item in workloads([folder])):
        (container,) = pod_spec(item)["containers"]
        title = container["image"].rpartition(":")[0].rpartition("/")[2]
        assert title in titles
        assert ("dashboard" in title) == (item["kind"] == "Deployment")


@pytest.mark.parametrize("folder", WITH_PODS)
def test_volumes_and_mounts_belong_together(folder):
    (item,) = workloads([folder])
    spec = pod_spec(item)
    claims = {claim["metadata"]["name"] for claim in render(K8S / "storage")}
    (container,) = spec["containers"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert {*mounts} == {*volumes}
    assert len({mount["mountPath"] for mount in mounts.values()}) == len(container["volumeMounts"])
    for name, volume in volumes.items():
        if claim := volume.get("persistentVolumeClaim"):
            assert claim["claimName"] in claims
            assert claim.get("readOnly", False) == mounts[name].get("readOnly", False)
        else:
            assert volume["emptyDir"]["sizeLimit"]
    environ = environment(container, pod_labels(item))
    for name in ("HOME", "TRAINER_CACHE_DIR"):  # what is written needs a volume
        if name in environ:
            top = "/" + environ[name].split("/")[1]
            (mount,) = (mount for mount in mounts.values() if mount["mountPath"] == top)
            assert not mount.get("readOnly")
    assert "/tmp" in {mount["mountPath"] for mount in mounts.values()}


def test_all_nodes_can_mount_the_claims():
    for claim in render(K8S / "storage"):
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_gpu_pods_do_not_share_a_node():
    (term,) = pod_spec(training("gpu"))["affinity"]["podAntiAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    labels = pod_labels(training("gpu"))
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert selects(term["labelSelector"]["matchLabels"], labels)
    assert set(term["matchLabelKeys"]) <= labels.keys()
