"""scripts/_venv makes the environment of the lock once, with the CUDA that the driver takes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout whose lock asks for two tiny packages: `one` always, `two` for the extra dev."""
    root = tmp_path_factory.mktemp("checkout")
    for folder in ("scripts", "requirements", "wheels"):
        (root / folder).mkdir()
    shutil.copy(ROOT / "scripts/_venv", root / "scripts")
    pins = {}
    for name in ("one", "two"):
        wheel = root / f"wheels/{name}-1.0-py3-none-any.whl"
        info = f"{name}-1.0.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{name}.py", "")
            archive.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
            )
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        pins[name] = f"{name}==1.0 \\\n    --hash=sha256:{digest}\n"
    for file in ("base", "build"):
        (root / f"requirements/{file}.txt").write_text(pins["one"])
    for file in ("dev", "cuda12", "cuda13"):
        (root / f"requirements/{file}.txt").write_text(pins["two"])
    (root / "requirements/wrong.txt").write_text(f"two==1.0 \\\n    --hash=sha256:{'0' * 64}\n")
    return root


def make_environment(checkout, *extras, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "TRAINER_"))}
    offline = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "wheels"}
    return subprocess.run(
        ["scripts/_venv", *extras],
        cwd=checkout,
        env={**kept, **offline, "PYTHON": sys.executable, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def test_the_environment_is_made_once_and_grows_and_follows_the_lock(checkout):
    venv = checkout / ".venv"
    packages = venv / f"lib/python{THIS_PYTHON}/site-packages"

    # What an interruption left.
    venv.mkdir()
    (venv / "pyvenv.cfg").touch()
    (venv / "half").touch()
    fresh = make_environment(checkout)
    assert fresh.returncode == 0, fresh.stderr
    assert "installing base.txt into .venv (Python 3." in fresh.stderr
    assert (packages / "one.py").exists()
    assert not (packages / "two.py").exists()
    assert not (venv / "half").exists()

    again = make_environment(checkout)
    assert (again.returncode, again.stderr) == (0, "")

    for extra, given in (("dev", {"PIP_FIND_LINKS": "nowhere"}), ("wrong", {})):
        failed = make_environment(checkout, extra, **given)
        assert failed.returncode == 1
        assert "scripts/_venv: pip failed, see above: connect this machine" in failed.stderr
        assert not (packages / "two.py").exists()
        assert make_environment(checkout).stderr == "", "a failed addition spoils what is there"

    more = make_environment(checkout, "dev")
    assert more.returncode == 0, more.stderr
    assert (packages / "two.py").exists()
    assert make_environment(checkout).stderr == ""

    lock = checkout / "requirements/base.txt"
    lock.write_text(lock.read_text() + "# changed\n")
    (packages / "of_the_old_lock.py").touch()
    renewed = make_environment(checkout)
    assert renewed.returncode == 0, renewed.stderr
    assert "installing base.txt dev.txt into .venv" in renewed.stderr
    assert (packages / "two.py").exists()
    assert not (packages / "of_the_old_lock.py").exists()
    assert make_environment(checkout, "dev").stderr == ""


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PYTHON": "no-such-python"}, "no-such-python is not Python 3.11, 3.12 or 3.13 with venv"),
        (
            {"TRAINER_ACCELERATOR": "tpu"},
            "TRAINER_ACCELERATOR=tpu is not one of cpu, cuda12, cuda13",
        ),
        ({"TRAINER_VENV": "wheels"}, "TRAINER_VENV=wheels is a folder with other things in it"),
    ],
)
def test_the_environment_script_says_what_is_wrong(checkout, environment, message):
    refused = make_environment(checkout, "accelerator", **{"TRAINER_VENV": "other", **environment})
    assert refused.returncode == 1
    assert message in refused.stderr
    assert not (checkout / "other/bin").exists()


def choose_accelerator(checkout, tmp_path, gpu, **environment):
    """Run scripts/_venv where nvidia-smi says this, up to the first thing that it would install."""
    nvidia_smi = tmp_path / "nvidia-smi"
    nvidia_smi.write_text(f"#!/bin/sh\necho '{gpu}'\n")
    nvidia_smi.chmod(0o755)
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "no-such-python"}
    refused = make_environment(
        checkout, "accelerator", TRAINER_VENV=str(tmp_path / "venv"), **environment
    )
    assert refused.returncode == 1
    return refused.stderr


@pytest.mark.parametrize(
    ("gpu", "choice"),
    [
        ("570.86.15, 9.0", "cuda12"),
        ("580.65.06, 9.0", "cuda13"),
        ("580.65.06, 7.0", "cuda12"),
        ("590.10, 12.0", "cuda13"),
        ("470.1, 8.0", "cpu"),
    ],
)
def test_the_cuda_packages_fit_the_driver(checkout, tmp_path, gpu, choice):
    message = choose_accelerator(checkout, tmp_path, gpu)
    assert message.count(f"accelerator: {choice} for NVIDIA driver") == 1


def test_an_environment_keeps_its_cuda(checkout, tmp_path):
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/pyvenv.cfg").touch()
    (tmp_path / "venv/.stamp").write_text("\nrequirements/base.txt requirements/cuda12.txt\n")
    kept = choose_accelerator(checkout, tmp_path, "580.65.06, 9.0")
    assert "accelerator:" not in kept
    assert "no-such-python" in kept
    other = choose_accelerator(checkout, tmp_path, "", TRAINER_ACCELERATOR="cuda13")
    assert "has another CUDA, and one environment holds one" in other
