"""The Kubernetes manifests render, fit the schemas, satisfy a linter, and agree with themselves."""

import json
import re
import socket
import subprocess
import time
import urllib.request

import kubernetes_validate
import pytest
import yaml
from support.manifests import (
    BIN,
    JOB_LABEL,
    K8S,
    RETRIED,
    SET_LABEL,
    action,
    as_job,
    environment,
    expand,
    one,
    overlay_of,
    pod_labels,
    pod_spec,
    render,
)
from support.pods import ENTRY_POINT, WORKING_DIRECTORY

from trainer.config.compose import compose
from trainer.job import errors

DOCUMENT = K8S.parents[1] / "docs" / "kubernetes.md"
VERSIONS = ("1.35", "1.36", "1.37")
OVERLAYS = ("cpu", "gpu", "jobset")
WITH_PODS = ("data", "tensorboard", *(f"overlays/{name}" for name in OVERLAYS))
WITH_JOBS = ("data", *(f"overlays/{name}" for name in OVERLAYS))
FOLDERS = ("storage", *WITH_PODS)
WORKLOADS = ("Deployment", "Job", "JobSet")
NEVER = {errors.EXIT_DATA, errors.EXIT_NONFINITE, errors.EXIT_SAVE, errors.EXIT_CONFIG}


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


def test_every_kustomization_is_among_the_tested():
    kinds = {
        path.parent.relative_to(K8S).as_posix(): yaml.safe_load(path.read_text())["kind"]
        for path in K8S.rglob("kustomization.yaml")
    }
    assert {name for name, kind in kinds.items() if kind == "Kustomization"} == {*FOLDERS, "base"}
    named = [path.name for path in K8S.rglob("*.yaml")]
    assert "Secret" not in {item["kind"] for folder in FOLDERS for item in render(K8S / folder)}
    assert all(name == name.lower() for name in named)


# Schemas


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


# Security


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


# What no schema knows


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


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_number_of_processes_is_one_number(overlay):
    item = training(overlay)
    job, (container,) = as_job(item), pod_spec(item)["containers"]
    assert job["spec"]["completionMode"] == "Indexed"
    environ = environment(container, pod_labels(item))
    count = job["spec"]["completions"]
    assert count == job["spec"]["parallelism"] == int(environ["JAX_NUM_PROCESSES"])
    assert count > 1


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_coordinator_is_the_first_pod(overlay):
    item = training(overlay)
    job, spec = as_job(item), pod_spec(item)
    (container,) = spec["containers"]
    address = environment(container, pod_labels(item))["JAX_COORDINATOR_ADDRESS"]
    if item["kind"] == "Job":
        service = one(render(K8S / "overlays" / overlay), "Service")
        subdomain = spec["subdomain"]
        assert service["metadata"]["name"] == subdomain
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["publishNotReadyAddresses"] is True
        assert service["spec"]["ports"][0]["port"] == container["ports"][0]["containerPort"]
        assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    else:  # the set makes a service of its own name
        assert "subdomain" not in spec
        subdomain = item["metadata"]["name"]
    port = container["ports"][0]["containerPort"]
    assert address == f"{job['metadata']['name']}-0.{subdomain}:{port}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_arguments_make_a_configuration(overlay):
    item = training(overlay)
    (container,) = pod_spec(item)["containers"]
    assert "command" not in container  # the image's entry point passes signals on
    (job,) = compose(arguments(item))
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {job.config.run.root, f"/{job.config.data.cache_dir.split('/')[1]}"} <= mounts
    assert job.config.run.name == item["metadata"]["name"]  # the same after every restart
    gpus = container["resources"]["limits"].get("nvidia.com/gpu")
    given = [a.partition("=")[2] for a in container["args"] if a.startswith("cluster.gpus_per_p")]
    assert given == ([gpus] if gpus else [])
    assert ("cuda" in container["image"]) == bool(gpus)


def test_the_download_makes_a_configuration():
    (item,) = workloads(["data"])
    (container,) = pod_spec(item)["containers"]
    (job,) = compose(container["args"])
    assert job.config.data.download
    (trained,) = compose(arguments(training("cpu")))
    assert job.config.data.cache_dir == trained.config.data.cache_dir
    assert not trained.config.data.download


# Restarts


@pytest.mark.parametrize("folder", WITH_JOBS)
def test_the_policy_is_made_of_the_trainers_exit_codes(folder):
    job = as_job(next(workloads([folder])))
    rules = job["spec"]["podFailurePolicy"]["rules"]
    assert {*rules[0]["onExitCodes"]["values"]} == NEVER
    names = {c["name"] for c in job["spec"]["template"]["spec"]["containers"]}
    assert {r["onExitCodes"]["containerName"] for r in rules if "onExitCodes" in r} == names
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert codes == NEVER | {errors.EXIT_COMPLETED, errors.EXIT_RETRY, errors.EXIT_UNAVAILABLE}
    for code in range(1, 256):
        assert action(job, code) == ("Count" if code in RETRIED else "FailJob")
        assert action(job, code, disrupted=True) == ("FailJob" if code in NEVER else "Ignore")


@pytest.mark.parametrize("folder", WITH_JOBS)
def test_what_kubernetes_demands_of_a_job_with_a_policy(folder):
    spec = as_job(next(workloads([folder])))["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    if folder != "data":
        assert spec["podReplacementPolicy"] == "Failed"
        assert spec["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
    rules = spec["podFailurePolicy"]["rules"]
    assert len(rules) <= 20
    for rule in rules:
        assert {*rule} in ({"action", "onExitCodes"}, {"action", "onPodConditions"})
        values = rule.get("onExitCodes", {}).get("values", [])
        assert values == sorted(set(values))  # the API server refuses any other order
        assert 0 not in values
        for condition in rule.get("onPodConditions", []):
            assert condition == {"type": "DisruptionTarget", "status": "True"}
    if "backoffLimitPerIndex" in spec:
        assert spec["maxFailedIndexes"] == 0
    else:
        assert spec["backoffLimit"] == (3 if folder == "data" else 0)


def test_a_pod_has_time_to_save():
    for overlay in OVERLAYS:
        assert pod_spec(training(overlay))["terminationGracePeriodSeconds"] >= 60


# Who may talk to whom


def selects(selector, labels):
    return selector.items() <= labels.items()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_jobs_own_pods_reach_each_other(overlay, tmp_path):
    base = K8S / "overlays" / overlay
    policy = one(render(base), "NetworkPolicy")["spec"]
    own = pod_labels(training(overlay))
    second = overlay_of(tmp_path / "second", base, nameSuffix="-2", namespace="trainer")
    others = [pod_labels(item) for item in workloads(["tensorboard", "data"])]
    others += [pod_labels(item) for item in second if item["kind"] in WORKLOADS]
    assert len(others) == 3
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (ingress,) = policy["ingress"]
    assert "ports" not in ingress  # gloo and NCCL listen where they like
    peers, names = policy["egress"]
    for selector in (policy, ingress["from"][0], peers["to"][0]):
        assert {*selector} & {"namespaceSelector", "ipBlock"} == set()
        assert selects(selector["podSelector"]["matchLabels"], own)
        assert not any(selects(selector["podSelector"]["matchLabels"], other) for other in others)
    assert len(ingress["from"]) == len(peers["to"]) == len(names["to"]) == 1
    assert names["to"][0]["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "kube-system"
    }
    assert {(port["port"], port["protocol"]) for port in names["ports"]} == {
        (53, "UDP"),
        (53, "TCP"),
    }


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_a_service_finds_the_pods_of_its_job_only(overlay, tmp_path):
    base = K8S / "overlays" / overlay
    selector = one(render(base), "Service")["spec"]["selector"]
    assert selects(selector, pod_labels(training(overlay)))
    second = overlay_of(tmp_path / "second", base, nameSuffix="-2", namespace="trainer")
    assert not selects(selector, pod_labels(one(second, "Job")))


def test_tensorboards_service_and_policy_find_its_pods():
    objects = render(K8S / "tensorboard")
    labels, deployment = pod_labels(one(objects, "Deployment")), one(objects, "Deployment")
    service, policy = one(objects, "Service")["spec"], one(objects, "NetworkPolicy")["spec"]
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        service["selector"],
        policy["podSelector"]["matchLabels"],
    ):
        assert selects(selector, labels)
        assert not any(selects(selector, pod_labels(training(name))) for name in OVERLAYS)
    (container,) = pod_spec(deployment)["containers"]
    assert service["ports"][0]["targetPort"] == container["ports"][0]["name"]
    assert f"--port={container['ports'][0]['containerPort']}" in container["args"]
    assert "command" not in container
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & {*policy}  # nobody gets in, and it asks nobody


@pytest.mark.slow
def test_tensorboard_answers_its_probes(tmp_path):
    (container,) = pod_spec(one(render(K8S / "tensorboard"), "Deployment"))["containers"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ours = [f"--port={port}" if a.startswith("--port=") else a for a in container["args"]]
    command = [BIN / "tensorboard", f"--logdir={tmp_path}", *ours]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tensorboard:
        try:
            for name in ("startupProbe", "readinessProbe", "livenessProbe"):
                url = f"http://127.0.0.1:{port}{container[name]['httpGet']['path']}"
                assert wait_for_answer(url, tensorboard) == 200
        finally:
            tensorboard.kill()


def wait_for_answer(url, process):
    deadline = time.monotonic() + 240
    while True:
        assert time.monotonic() < deadline
        assert process.poll() is None
        try:
            with urllib.request.urlopen(url, timeout=120) as answer:
                return answer.status
        except OSError:
            time.sleep(0.2)


def test_gpu_pods_do_not_share_a_node():
    (term,) = pod_spec(training("gpu"))["affinity"]["podAntiAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    labels = pod_labels(training("gpu"))
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert selects(term["labelSelector"]["matchLabels"], labels)
    assert set(term["matchLabelKeys"]) <= labels.keys()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_suffix_makes_a_second_job_beside_the_first(overlay, tmp_path):
    base = K8S / "overlays" / overlay
    suffix = {"nameSuffix": "-lr02", "namespace": "trainer"}
    first, second = render(base), overlay_of(tmp_path / "second", base, **suffix)
    names = {(item["kind"], item["metadata"]["name"]) for item in first}
    assert not names & {(item["kind"], item["metadata"]["name"]) for item in second}
    (item,) = (item for item in second if item["kind"] in WORKLOADS)
    labels = pod_labels(item)
    environ = environment(pod_spec(item)["containers"][0], labels)
    pod = "train-lr02-node-0-0" if overlay == "jobset" else "train-lr02-0"
    assert environ["JAX_COORDINATOR_ADDRESS"] == f"{pod}.train-lr02:8476"
    label = SET_LABEL if overlay == "jobset" else JOB_LABEL
    policy = one(second, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == {label: "train-lr02"}
    assert selects(policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"], labels)
    assert selects(policy["egress"][0]["to"][0]["podSelector"]["matchLabels"], labels)
    assert {
        v["persistentVolumeClaim"]["claimName"]
        for v in pod_spec(item)["volumes"][-4:]
        if "persistentVolumeClaim" in v
    } == {"trainer-runs", "trainer-data"}


def test_the_second_job_of_the_document(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    written = yaml.safe_load(text)
    (base,) = written.pop("resources")
    job = one(overlay_of(tmp_path / "lr02", K8S / "overlays/lr02" / base, **written), "Job")
    (composed,) = compose(arguments(job))
    assert composed.config.run.name == job["metadata"]["name"] == "train-lr02"
    assert composed.config.optim.lr == 0.02
