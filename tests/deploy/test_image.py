"""The images, built and run for real."""

import json
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from support import engine

pytestmark = pytest.mark.slow
USER = 10001
GRACE = 30  # seconds, before `podman stop` kills
REVISION = "0123abc-dirty"


@pytest.fixture(scope="module")
def machine():
    """An engine with the base image and both of the trainer's images."""
    if reason := engine.missing():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="image-"))  # podman wants a short path
    built = engine.Engine(folder)
    try:
        built.make_base()
        built.build("trainer", "trainer", REVISION=REVISION)
        built.build("dashboard", "trainer-dashboard")
        yield built
    finally:
        built.close()
        shutil.rmtree(folder, ignore_errors=True)


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
    deadline = time.monotonic() + 240
    metrics = run / "metrics.jsonl"
    while True:
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        steps = [json.loads(line)["step"] for line in lines if line.endswith("}")]
        if steps and steps[-1] >= step:
            return
        assert process.poll() is None, end(process)
        assert time.monotonic() < deadline, end(process)
        time.sleep(0.05)


def signal_trainer(machine, name, signal):
    """Send a signal to the trainer itself, the one child of the container's first process."""
    code = "import os, signal; pid = int(open('/proc/1/task/1/children').read());"
    machine.must("exec", name, "python", "-c", f"{code} os.kill(pid, signal.{signal})")


def summary_of(run):
    return json.loads((run / "summary.json").read_text())


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
    assert not [path for path in ours if path.name in ("pip", "pip.conf")]
    compiled = {path.parent.parent.name for path in ours if path.suffix == ".pyc"}
    if image == "trainer":  # the bytecode of what every start imports, and of nothing else
        assert {"trainer", "jax"} <= compiled
        assert "mlxtend" not in compiled
    else:
        assert not compiled
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


def test_the_smoke_experiment_runs_as_nobody_special(machine, volume):
    option, runs = volume
    code, message = end(machine.run("trainer", "+experiment=smoke", "run.name=a", options=[option]))
    assert code == 0, message
    assert re.search(r"^status +completed$", message, re.MULTILINE)
    run = runs / "smoke/a"
    assert summary_of(run)["test_accuracy"] > 0.85
    assert {path.stat().st_uid for path in run.rglob("*")} == {USER}
    facts = json.loads((run / "environment.json").read_text())
    assert facts["git"] == {"revision": "0123abc", "dirty": True}
    # The compiled programs are kept beside the runs, for a start after a preemption.
    assert any((runs / ".cache/xla").iterdir())


def test_it_saves_when_told_to_stop_and_goes_on_when_started_again(machine, volume):
    option, runs = volume
    run = runs / "smoke/b"
    job = ("+experiment=smoke", "run.name=b", "train.epochs=100000")
    job += ("train.pictures_every_epochs=null",)
    health = machine.inspect("trainer")["Healthcheck"]["Test"][1:]
    saved = [0]
    for name in ("first", "second"):
        process = machine.run("trainer", *job, options=[option, f"--name={name}"])
        wait_for_step(run, saved[-1] + 200, process)
        healthy = machine.podman("exec", name, *health)
        assert (healthy.returncode, "/runs/smoke/b: " in healthy.stdout) == (0, True), healthy
        signal_trainer(machine, name, "SIGSTOP")
        for file in (run / "run.lock", run / "goodput.json"):
            os.utime(file, (time.time() - 301,) * 2)
        stuck = machine.podman("exec", name, *health)
        assert stuck.returncode == 1, stuck
        signal_trainer(machine, name, "SIGCONT")
        began = time.monotonic()
        machine.must("stop", f"--time={GRACE}", name)
        assert time.monotonic() - began < GRACE
        code, message = end(process)
        assert code == 75, message
        summary = summary_of(run)
        assert summary["status"] == "preempted"
        assert summary["resumed_from_step"] == (saved[-1] or None)
        saved.append(summary["steps"])
        assert (run / f"checkpoints/{summary['steps']}").is_dir()
    assert saved == sorted({*saved})


def test_a_stop_that_comes_at_once_is_heard(machine):
    process = machine.run(
        "trainer", "+experiment=smoke", "train.epochs=2000", options=["--name=early"]
    )
    while machine.podman("stop", f"--time={GRACE}", "early").returncode:  # not yet there
        assert process.poll() is None, end(process)
    code, message = end(process)
    assert code in (75, 143), message  # 137: it was killed at the end of the grace period


def test_an_abort_keeps_its_exit_code(machine):
    entrypoint = machine.inspect("trainer")["Config"]["Entrypoint"]
    assert entrypoint == ["tini", "--", "python", "-m", "trainer"]
    abort = json.dumps([*entrypoint[:-2], "-c", "import os; os.abort()"])
    code, message = end(machine.run("trainer", options=[f"--entrypoint={abort}"]))
    assert code == 134, message


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
    deadline = time.monotonic() + 240
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
    code, message = end(process)
    assert code in (0, 143), message
