"""The jobs of the manifests agree with the trainer: processes, options, exit codes, second jobs."""

import re

import pytest
import yaml
from support.manifests import (
    JOB_LABEL,
    K8S,
    OVERLAYS,
    RETRIED,
    SET_LABEL,
    WITH_JOBS,
    WORKLOADS,
    action,
    arguments,
    as_job,
    environment,
    one,
    overlay_of,
    pod_labels,
    pod_spec,
    render,
    selects,
    training,
    workloads,
)

from trainer.config.compose import compose
from trainer.job import errors

DOCUMENT = K8S.parents[1] / "docs" / "kubernetes.md"
NEVER = {errors.EXIT_DATA, errors.EXIT_NONFINITE, errors.EXIT_SAVE, errors.EXIT_CONFIG}


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
