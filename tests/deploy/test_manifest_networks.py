"""Services and network policies of the manifests choose the right pods, and TensorBoard answers."""

import socket
import subprocess
import time
import urllib.request

import pytest
from support.manifests import (
    BIN,
    K8S,
    OVERLAYS,
    WORKLOADS,
    one,
    overlay_of,
    pod_labels,
    pod_spec,
    render,
    selects,
    training,
    workloads,
)


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
