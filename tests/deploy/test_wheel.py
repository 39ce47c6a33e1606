"""The wheel has all that the trainer needs, and trains without the checkout."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*command, folder], cwd=ROOT, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_has_the_code_and_what_goes_with_it(wheel):
    assert re.fullmatch(r"exact_trainer-[\d.]+-py3-none-any\.whl", wheel.name)
    names = zipfile.ZipFile(wheel).namelist()
    folders = ("conf", "scripts/slurm", "scripts/k8s", "trainer/new/template")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.*")]
    wanted = {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc"}
    assert {"conf/config.yaml", "scripts/slurm/train.sbatch"} <= wanted
    assert {f"trainer/{name.removeprefix('trainer/')}" for name in wanted} <= {*names}
    assert {"trainer/py.typed", "trainer/scripts/slurm/task"} <= {*names}
    others = [n for n in names if not n.startswith(("trainer/", "exact_trainer-"))]
    assert others + [n for n in names if "__pycache__" in n] == []


@pytest.fixture(scope="module")
def installed(request, tmp_path_factory):
    """An environment with the wheel: TRAINER_TEST_VENV, or one beside these tests' packages."""
    if given := os.environ.get("TRAINER_TEST_VENV"):
        return Path(given).absolute()
    venv = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    packages = venv / f"lib/python{THIS_PYTHON}/site-packages"
    (packages / "these.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", venv / "bin/python", "--quiet"]
    options = ["--no-index", "--no-deps", "--disable-pip-version-check"]
    file = request.getfixturevalue("wheel")
    subprocess.run([*pip, "install", *options, file], check=True)
    return venv


# What SLURM would do: say where the script was, and start one task.
SCONTROL = """#!/bin/sh
echo "   Command=$SUBMITTED"
"""
SRUN = """#!/bin/sh
while [ "$1" != bash ]; do shift; done
exec "$@"
"""


def test_from_the_wheel_alone_to_a_trained_model(installed, tmp_path):
    """No checkout is in reach: a new project, its training, and every way to start it."""
    programs, project = tmp_path / "programs", tmp_path / "my project"
    programs.mkdir()
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (programs / "kubectl").symlink_to(Path(sys.prefix) / "bin/kubectl")
    environ = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "JAX_PLATFORMS": "cpu",
        "TRAINER_CONFIG_DIR": "conf",
    }

    def call(*command, folder=project, code=0, **given):
        done = subprocess.run(
            command,
            cwd=folder,
            env={**environ, **given},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return done

    def trainer(*words, **options):
        return call(installed / "bin/python", "-m", "trainer", *words, **options)

    def summary(run):
        return json.loads((project / "runs/first" / run / "summary.json").read_text())

    new = call(
        installed / "bin/trainer", "new", "my project", folder=tmp_path, TRAINER_CONFIG_DIR=""
    )
    shown = new.stdout.splitlines()[-1].partition("&& ")[2]
    python, *words = shlex.split(shown)
    assert [python, *words[:2]] == ["python", "-m", "trainer"]
    short = ("train.epochs=1", "train.steps_per_dispatch=16", "model.options.width=16")
    short += ("optim.schedule=constant",)  # under which epochs may be added
    call(installed / "bin/python", *words, *short, TRAINER_CONFIG_DIR="")
    trainer("+experiment=first", "run.name=first", *short, "train.epochs=2")
    assert summary("first")["resumed_from_step"] == 57
    wrong = trainer("+experiment=frist", code=78).stderr
    assert f"there is no such file in {project}/conf/experiment or " in wrong
    assert wrong.endswith("did you mean first?\n")

    values = ("+experiment=first", *short, "optim.lr=0.01,0.02", "run.name=sweep")
    assert "sweep of 2 trials" in trainer("-m", *values).stderr
    trainer("local", "2", "+experiment=first", *short, "run.name=two")
    assert summary("two")["processes"] == 2
    assert "FOLDER" in trainer("dashboard", "--help").stdout

    assert "a step computes" in trainer("plan", "+experiment=first", *short).stdout
    job = ("--dry-run", "--no-plan", "+experiment=first", *short)
    pods = trainer("submit", "k8s", "--image", "registry.internal/mine:1", *job)
    assert "- --config-dir=conf" in pods.stdout
    assert "the image must contain model.py, conf" in pods.stderr
    missing = trainer("submit", "k8s", *job, code=69, PATH=str(installed / "bin"))
    assert "/kubectl: No such file" in missing.stderr

    words = shlex.split(trainer("submit", "slurm", *job).stdout)
    place = next(index for index, word in enumerate(words) if word.endswith("/train.sbatch"))
    assert Path(words[place]).is_relative_to(installed)
    slurm = {"SLURM_JOB_ID": "12", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "here"}
    started = {**slurm, "SLURM_SUBMIT_DIR": str(project), "SUBMITTED": words[place]}
    del environ["TRAINER_CONFIG_DIR"]  # as where the environment is not handed to jobs
    call("bash", *words[place:], **started)
    assert summary("12")["status"] == "completed"

    trainer("export", "runs/first/first", "exported")
    assert (project / "exported/weights.safetensors").exists()
