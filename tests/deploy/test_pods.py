"""The pods of the rendered Indexed Job, as real processes in network namespaces of their own.

Command, environment, host names, volumes, user and restarts are those of the manifest; only the
experiment is a small one, changed by an overlay as a user would.
"""

import json
import os
import re
import shutil
import subprocess

import pytest
from support.indexed_job import running
from support.manifests import K8S, one, overlay_of

pytestmark = pytest.mark.slow

TOOLS = ("ip", "nsenter", "unshare", "setpriv", "chroot")
HEARTBEAT = 8  # seconds


@pytest.fixture(scope="module", autouse=True)
def _namespaces():
    if os.geteuid() != 0:
        pytest.skip("network and mount namespaces need root")
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        pytest.skip(f"{', '.join(missing)} not found: install iproute2 and util-linux")
    probe = subprocess.run(["unshare", "--net", "--mount", "--uts", "true"], capture_output=True)
    if probe.returncode:
        pytest.skip(f"no namespaces on this machine: {probe.stderr.decode().strip()}")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start a job made by an overlay of a user's own: another name, a small experiment."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "claims").mkdir()

    def make(name: str, overlay: str, pods: int | None = None, **arguments):
        path = "/spec/template/spec/containers/0/args"
        changes = [
            {"op": "replace", "path": f"{path}/0", "value": "+experiment=smoke"},
            {"op": "add", "path": f"{path}/-", "value": "train.epochs=12"},
            {"op": "add", "path": f"{path}/-", "value": "train.global_batch_size=200"},
            {"op": "add", "path": f"{path}/-", "value": "train.pictures_every_epochs=null"},
            {
                "op": "add",
                "path": f"{path}/-",
                "value": f"cluster.heartbeat_timeout_seconds={HEARTBEAT}",
            },
        ]
        if pods:
            name_of_number = "/spec/template/spec/containers/0/env/0"
            changes += [
                {"op": "replace", "path": "/spec/completions", "value": pods},
                {"op": "replace", "path": "/spec/parallelism", "value": pods},
                {"op": "test", "path": f"{name_of_number}/name", "value": "JAX_NUM_PROCESSES"},
                {"op": "replace", "path": f"{name_of_number}/value", "value": str(pods)},
            ]
        rendered = overlay_of(
            folder / f"overlay-{name}",
            K8S / "overlays" / overlay,
            namespace="trainer",
            nameSuffix=f"-{name}",
            patches=[{"target": {"kind": "Job"}, "patch": json.dumps(changes)}],
        )
        return running(one(rendered, "Job"), folder / "claims", **arguments)

    return make


@pytest.fixture(scope="module")
def late(start):
    """The job without a failure, whose pods come late; it runs beside the other tests.

    Those that need its result come last.
    """
    with start("late", "cpu", late={0: 5, 1: 20}) as begun:
        yield begun


@pytest.fixture(scope="module")
def weights(late):
    """Return what the weights of the job without a failure are."""

    def wait() -> str:
        late.wait(300)
        assert late.status == "succeeded", late.report()
        return late.summary()["weights_sha256"]

    return wait


def ends(run, what):
    return {index: code for index, code, done in run.ended if done == what}


def test_a_preempted_pod_is_not_counted_and_all_save(start, late):
    with start("preempted", "cpu", pods=2) as run:
        run.wait(180, lambda: run.step() >= 40)
        run.evict(1)
        run.wait(240, lambda: len(run.ended) == 2)
        assert ends(run, "Count") == {0: 75}, run.report()
        assert ends(run, "Ignore") == {1: 75}
        assert run.summary()["status"] == "preempted"
        assert run.summary()["steps"] >= 40


def test_pods_without_their_gpus_fail_the_job_for_good(start, late):
    with start("gpus", "gpu", pods=2) as run:
        run.wait(240)
        assert run.status == "failed", run.report()
        assert 78 in ends(run, "FailJob").values(), run.report()
        assert not ends(run, "Count")
        assert "8 GPUs expected (cluster.gpus_per_process=8)" in run.report()


def test_pods_that_are_cut_off_or_killed_are_replaced_and_the_run_resumes(start, late, weights):
    with start("lost", "cpu") as run:
        run.wait(180, lambda: run.step() >= 40)
        run.network.cut(run.pods[2].link)
        run.wait(HEARTBEAT + 20, lambda: len(run.ended) == 4)
        assert ends(run, "Count") == {0: 75, 1: 75, 2: 75, 3: 75}, run.report()
        assert "lost process 2 (host train-lost-2" in run.summary()["error"]
        cut_off = (
            r"lost process 0 \(host train-lost-0, pid \d+\), which cannot be reached from here"
        )
        assert re.search(cut_off, run.report())

        step = run.step()
        run.wait(240, lambda: run.step() > step)
        run.pods[3].process.kill()
        run.wait(240, lambda: len(run.ended) == 8)
        codes = {index: code for index, code, _ in run.ended[4:]}
        assert codes.pop(3) == 137
        # A peer that vanishes between two messages can make gloo itself abort.
        assert {*codes.values()} <= {75, 134}, run.report()
        assert {done for _, _, done in run.ended} == {"Count"}

        run.wait(240)
        assert run.status == "succeeded", run.report()
        summary = run.summary()
        assert (summary["status"], summary["processes"]) == ("completed", 4)
        assert summary["resumed_from_step"] >= 20  # the end of the first epoch
        assert summary["weights_sha256"] == weights()


def test_four_pods_train_to_the_end_though_two_are_late(late, weights):
    assert weights()
    assert ends(late, "Succeeded").keys() >= {0}
    assert {index for index, *_ in late.ended} <= {0, 1, 2, 3}
    assert len(late.ended) <= 4, "a pod was restarted"
    summary = late.summary()
    assert (summary["status"], summary["resumed_from_step"]) == ("completed", None)
    assert (summary["processes"], summary["devices"]) == (4, 4)
