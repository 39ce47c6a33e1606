"""The image, built and run for real; the files it is built from, checked by their linters."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import engine
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
DOCKER = ROOT / "docker"
USER = 10001
GRACE = 30  # seconds, before `podman stop` kills
REVISION = "0123abc-dirty"


# The files


def tool(name, *arguments):
    command = [Path(sys.executable).parent / name, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_hadolint_finds_nothing():
    checked = tool("hadolint", "--failure-threshold", "style", DOCKER / "Dockerfile")
    assert (checked.returncode, checked.stdout) == (0, "")


def test_trivy_finds_nothing(tmp_path):
    report = tmp_path / "report.json"
    options = ["--quiet", "--skip-check-update", "--format", "json", "--output", report]
    checked = tool("trivy", "--cache-dir", tmp_path, "config", *options, DOCKER)
    assert checked.returncode == 0, checked.stderr
    (result,) = json.loads(report.read_text())["Results"]
    assert result["Target"] == "Dockerfile"
    assert result["MisconfSummary"]["Failures"] == 0, result
    assert result["MisconfSummary"]["Successes"] > 10


def stages_and_arguments():
    text = (DOCKER / "Dockerfile").read_text()
    stages = re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)
    return stages, set(re.findall(r"^ARG (\w+)=", text, re.MULTILINE))


def test_docker_build_makes_the_trainer_when_no_target_is_named():
    assert stages_and_arguments()[0][-1] == "trainer"


def test_the_compose_files_build_these_images_and_harden_them():
    stages, arguments = stages_and_arguments()
    composed = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    assert composed["services"].keys() == {"trainer", "tensorboard"}
    for service in composed["services"].values():
        build = service["build"]
        assert (DOCKER / build["context"] / build["dockerfile"]).samefile(DOCKER / "Dockerfile")
        assert build["target"] in stages
        assert build.get("args", {}).keys() <= arguments
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "user", "network_mode", "pid"} & service.keys()
        for mount in service["volumes"]:
            assert mount.split(":")[0] in composed["volumes"], "not a path of somebody's machine"
            assert mount.split(":")[1] == "/runs"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
    gpus = yaml.safe_load((DOCKER / "compose.cuda12.yaml").read_text())["services"]
    assert gpus.keys() == {"trainer"}
    assert gpus["trainer"]["build"]["args"].keys() <= arguments


# The image


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """An engine with the base image and both images of ours."""
    if reason := engine.missing():
        pytest.skip(reason)
    built = engine.Engine(tmp_path_factory.mktemp("engine"))
    try:
        built.make_base()
        built.build("trainer", "trainer", REVISION=REVISION)
        built.build("dashboard", "trainer-dashboard")
        yield built
    finally:
        built.close()


@pytest.fixture(scope="module")
def volume(machine):
    """A named volume, which gets its owner from the image, and where it lies."""
    machine.must("volume", "create", "runs")
    place = machine.must("volume", "inspect", "runs", "--format", "{{.Mountpoint}}")
    return "--volume=runs:/runs", Path(place)


def end(process, timeout=120):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out + err


def wait_for_step(run, step, process):
    deadline = time.monotonic() + 120
    metrics = run / "metrics.jsonl"
    while True:
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        steps = [json.loads(line)["step"] for line in lines if line.endswith("}")]
        if steps and steps[-1] >= step:
            return
        assert process.poll() is None, end(process)
        assert time.monotonic() < deadline, end(process)
        time.sleep(0.05)


def summary_of(run):
    return json.loads((run / "summary.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("image", ["trainer", "trainer-dashboard"])
def test_the_image_holds_what_it_needs_and_nothing_else(machine, image):
    config = machine.inspect(image)["Config"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["Entrypoint"][0] == "tini"
    assert config["Volumes"] == {"/runs": {}}
    assert machine.inspect(image)["Healthcheck"]["Test"][:2] == ["CMD", "python"]
    assert config["Labels"]["org.opencontainers.image.title"] == image
    root = Path(machine.must("image", "mount", image))
    bins = [root / name for name in ("usr/bin", "usr/sbin", "usr/local/bin", "opt/venv/bin")]
    commands = {path.name for folder in bins for path in folder.iterdir()}
    assert {"tini", "python"} <= commands
    assert not commands & {"cc", "gcc", "g++", "clang", "ld", "as", "make", "cargo", "go", "pip"}
    ours = [*(root / "opt/venv").rglob("*"), *(root / "app").rglob("*")]
    assert not [path for path in ours if path.name in ("__pycache__", "pip", "pip.conf")]
    caches = ("root/.cache", "home", "tmp", "build", "var/cache/apt", "var/lib/apt/lists")
    # Of what this test mounted to reach the packages, empty files and folders are left.
    mounted = ("etc/pip.conf", "run/pip")
    assert {name: size(root / name) for name in (*caches, *mounted)} == dict.fromkeys(
        (*caches, *mounted), 0
    )
    limit = {"trainer": 750e6, "trainer-dashboard": 250e6}[image]
    assert 0.5 * limit < size(root / "opt/venv") < limit
    machine.must("image", "unmount", image)


def size(path):
    """Bytes of a file, or of all in a folder; 0 where there is neither."""
    return sum(p.lstat().st_size for p in (path, *path.rglob("*")) if p.is_file())


@pytest.mark.slow
def test_the_smoke_experiment_runs_as_nobody_special(machine, volume):
    option, runs = volume
    code, told = end(machine.run("trainer", "+experiment=smoke", "run.name=a", options=[option]))
    assert code == 0, told
    assert "status          completed" in told
    run = runs / "smoke/a"
    assert summary_of(run)["test_accuracy"] > 0.85
    assert {path.stat().st_uid for path in run.rglob("*")} == {USER}
    facts = json.loads((run / "environment.json").read_text())
    assert facts["git"] == {"revision": "0123abc", "dirty": True}
    # The compiled programs are kept beside the runs, for a start after a preemption.
    assert any((runs / ".cache/xla").iterdir())


@pytest.mark.slow
def test_it_saves_when_told_to_stop_and_goes_on_when_started_again(machine, volume):
    option, runs = volume
    job = ("+experiment=smoke", "run.name=b", "train.epochs=100000")
    health = machine.inspect("trainer")["Healthcheck"]["Test"][1:]
    saved = [0]
    for name in ("first", "second"):
        process = machine.run("trainer", *job, options=[option, f"--name={name}"])
        wait_for_step(runs / "smoke/b", saved[-1] + 200, process)
        healthy = machine.podman("exec", name, *health)
        assert (healthy.returncode, "/runs/smoke/b: " in healthy.stdout) == (0, True), healthy
        stuck = machine.podman("exec", "--env=TRAINER_HEALTH_SECONDS=-1", name, *health)
        assert stuck.returncode == 1, stuck
        began = time.monotonic()
        machine.must("stop", f"--time={GRACE}", name)
        assert time.monotonic() - began < GRACE
        code, told = end(process)
        assert code == 75, told
        summary = summary_of(runs / "smoke/b")
        assert summary["status"] == "preempted"
        assert summary["resumed_from_step"] == (saved[-1] or None)
        saved.append(summary["steps"])
        assert (runs / f"smoke/b/checkpoints/{summary['steps']}").is_dir()
    assert saved == sorted({*saved})


@pytest.mark.slow
def test_a_stop_that_comes_at_once_is_heard(machine):
    process = machine.run("trainer", "+experiment=smoke", options=["--name=early"])
    while machine.podman("stop", f"--time={GRACE}", "early").returncode:  # not yet there
        assert process.poll() is None, end(process)
    code, told = end(process)
    assert code in (75, 143), told  # 137: it was killed at the end of the grace period


@pytest.mark.slow
def test_an_abort_keeps_its_exit_code(machine):
    entrypoint = machine.inspect("trainer")["Config"]["Entrypoint"]
    assert entrypoint == ["tini", "--", "python", "-m", "trainer"]
    abort = json.dumps([*entrypoint[:-2], "-c", "import os; os.abort()"])
    code, told = end(machine.run("trainer", options=[f"--entrypoint={abort}"]))
    assert code == 134, told


@pytest.mark.slow
def test_tensorboard_shows_the_runs_of_the_volume(machine, volume):
    option, runs = volume
    if not (runs / "smoke/a").exists():
        assert (
            end(machine.run("trainer", "+experiment=smoke", "run.name=a", options=[option]))[0] == 0
        )
    options = [f"{option}:ro", "--name=board"]
    process = machine.run("trainer-dashboard", options=options)
    health = machine.inspect("trainer-dashboard")["Healthcheck"]["Test"][1:]
    address = "http://127.0.0.1:6006/data/runs"
    ask = f"import urllib.request as u; print(u.urlopen({address!r}).read().decode())"
    deadline = time.monotonic() + 120
    while True:
        shown = machine.podman("exec", "board", "python", "-c", ask)
        if shown.returncode == 0 and "smoke/a/tensorboard" in json.loads(shown.stdout):
            break
        assert process.poll() is None, end(process)
        assert time.monotonic() < deadline, shown
        time.sleep(0.5)
    healthy = machine.podman("exec", "board", *health)
    assert healthy.returncode == 0, healthy
    machine.must("stop", f"--time={GRACE}", "board")
    code, told = end(process)
    assert code in (0, 143), told
