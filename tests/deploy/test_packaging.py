"""The lock, the environment script and the wheel: what people install is what was tested."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK_TEXT = (ROOT / "requirements.lock").read_text()
LOCK = runpy.run_path(str(ROOT / "scripts/lock"), run_name="lock")
PINS = LOCK["parse"](LOCK_TEXT)
PYTHONS = ("3.11", "3.12", "3.13")
EXTRAS = tuple(PYPROJECT["project"]["optional-dependencies"])


def applies(marker: str, python: str) -> bool:
    here = {"python_version": python, "python_full_version": f"{python}.0"}
    return not marker or Marker(marker).evaluate(here)


def locked(extra: str, python: str) -> dict[str, str]:
    """Name -> version of what `scripts/_venv EXTRA` installs on Linux, failing on two of a name."""
    pins = [p for p in PINS if {"base", extra} & {*p.extras} and applies(p.marker, python)]
    versions = {p.name: p.version for p in pins}
    assert len(versions) == len(pins), "a package is locked twice for one Python"
    return versions


# The lock


def test_the_classifiers_name_the_tested_pythons():
    assert LOCK["supported_pythons"](PYPROJECT) == list(PYTHONS)


def test_the_lock_covers_what_pyproject_states():
    assert LOCK["problems"](PYPROJECT, PINS) == []


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("extra", EXTRAS)
def test_every_extra_is_locked_on_every_python(extra, python):
    own = {p.name for p in PINS if extra in p.extras}
    assert own, f"nothing is locked for {extra}"
    assert {*locked("base", python)} < {*locked(extra, python)}


@pytest.mark.parametrize("extra", ["cuda12", "cuda13"])
def test_the_cuda_plugin_is_of_jax_own_version(extra):
    for python in PYTHONS:
        versions = locked(extra, python)
        assert versions[f"jax-{extra}-plugin"] == versions["jax"]
        assert versions[f"jax-{extra}-pjrt"] == versions["jax"]


def test_python_3_11_has_the_last_jax_that_supports_it():
    old, *new = (Version(locked("base", python)["jax"]) for python in PYTHONS)
    assert old.release[:2] == (0, 10)
    assert old < new[0] == new[1]


def test_every_pin_has_hashes_and_the_extras_that_need_it():
    known = {"base", "build", *EXTRAS}
    for pin in PINS:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", pin.text), pin.name
        assert {*pin.extras} <= known, pin.name
        assert pin.extras, pin.name


def test_the_lock_names_no_host_and_no_folder():
    assert "://" not in LOCK_TEXT
    for line in LOCK_TEXT.splitlines():
        assert line.startswith(("#", "    #", "    --hash=sha256:")) or re.match(
            r"[\w.-]+==\S+", line
        )


def test_what_is_installed_needs_nothing_outside_the_lock():
    """The transitive closure, for this Python and those of its extras that are installed."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    for extra in ("base", "offline", "dev"):
        versions = locked(extra, python)
        for name in versions:
            try:
                requirements = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue
            for requirement in map(Requirement, requirements):
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    version = versions.get(canonicalize_name(requirement.name))
                    assert version is not None, f"{extra}: {name} needs {requirement}"
                    assert requirement.specifier.contains(version, prereleases=True)


@pytest.mark.parametrize(
    ("stated", "complaint"),
    [
        ({"dependencies": ["numpy>=99"]}, "numpy>=99 (base, Python 3.12)"),
        ({"dependencies": ["nonesuch"]}, "nonesuch (base, Python 3.11): nothing is locked"),
        ({"optional-dependencies": {"new": ["pytest"]}}, "pytest (new, Python 3.13): nothing"),
    ],
)
def test_the_check_sees_what_the_lock_lacks(stated, complaint):
    changed = {**PYPROJECT, "project": {**PYPROJECT["project"], **stated}}
    assert any(problem.startswith(complaint) for problem in LOCK["problems"](changed, PINS))


def test_the_check_wants_a_hash():
    bare = PINS[0]._replace(text="absl-py==1\n")
    assert LOCK["problems"](PYPROJECT, [bare, *PINS[1:]]) == [
        f"{bare.name}=={bare.version} has no hash"
    ]


def test_changes_name_old_and_new_versions():
    new = [PINS[0]._replace(version="99"), *PINS[1:-1]]
    assert LOCK["changes"](PINS, new) == [
        f"{PINS[0].name}: {PINS[0].version} -> 99",
        f"{PINS[-1].name}: {PINS[-1].version} -> (none)",
    ]


def subset(*arguments):
    command = [sys.executable, ROOT / "scripts/lock", "--subset", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_subset_of_a_few_packages():
    few = subset("base", "offline", "--only", "mlxtend", "numpy")
    assert few.returncode == 0
    assert {pin.name for pin in LOCK["parse"](few.stdout)} == {"mlxtend", "numpy"}
    wrong = subset("base", "--only", "numpy", "mlxtend")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "'mlxtend' is not locked for base" in wrong.stderr


# The environment


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout whose lock asks for two tiny packages: `one` always, `two` for the extra dev."""
    root = tmp_path_factory.mktemp("checkout")
    wheels = root / "wheels"
    wheels.mkdir()
    lock = ""
    for name, extra in (("one", "base build"), ("two", "dev plots")):
        wheel = wheels / f"{name}-1.0-py3-none-any.whl"
        info = f"{name}-1.0.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{name}.py", "")
            archive.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
            )
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        lock += f"{name}==1.0 \\\n    --hash=sha256:{digest}\n    # extras: {extra}\n"
    (root / "requirements.lock").write_text(lock)
    (root / "scripts").mkdir()
    for script in ("_venv", "lock"):
        shutil.copy(ROOT / "scripts" / script, root / "scripts" / script)
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
    packages = venv / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"

    venv.mkdir()
    (venv / ".trainer-unfinished").touch()
    (venv / "rubbish").touch()

    fresh = make_environment(checkout)
    assert fresh.returncode == 0, fresh.stderr
    assert "making it anew" in fresh.stderr
    assert not (venv / "rubbish").exists()
    assert "installing 1 locked packages into .venv (base" in fresh.stderr
    assert (packages / "one.py").exists()
    assert not (packages / "two.py").exists()

    again = make_environment(checkout)
    assert (again.returncode, again.stderr) == (0, "")

    failed = make_environment(checkout, "dev", PIP_FIND_LINKS="nowhere")
    assert failed.returncode != 0
    assert "the package index could not be reached" in failed.stderr
    assert make_environment(checkout).stderr == "", "a failed addition must not spoil what is there"

    more = make_environment(checkout, "dev")
    assert more.returncode == 0, more.stderr
    assert "installing 1 locked packages into .venv (base dev" in more.stderr
    assert (packages / "two.py").exists()
    assert make_environment(checkout).stderr == ""

    contained = make_environment(checkout, "plots")
    assert contained.returncode == 0, contained.stderr
    assert "installing 0 locked packages into .venv (base dev plots" in contained.stderr

    lock = checkout / "requirements.lock"
    lock.write_text(lock.read_text() + "# changed\n")
    renewed = make_environment(checkout)
    assert renewed.returncode == 0, renewed.stderr
    assert "installing 2 locked packages into .venv (base dev" in renewed.stderr
    assert make_environment(checkout, "dev").stderr == ""


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PYTHON": "no-such-python"}, "no-such-python is not there"),
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


def test_no_accelerator_can_be_asked_for(checkout, tmp_path):
    made = make_environment(
        checkout, "accelerator", TRAINER_ACCELERATOR="cpu", TRAINER_VENV=str(tmp_path / "venv")
    )
    assert made.returncode == 0, made.stderr
    assert "installing 1 locked packages" in made.stderr


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
    nvidia_smi = tmp_path / "nvidia-smi"
    nvidia_smi.write_text(f"#!/bin/sh\necho '{gpu}'\n")
    nvidia_smi.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    refused = make_environment(
        checkout,
        "accelerator",
        PATH=path,
        PYTHON="no-such-python",
        TRAINER_VENV=str(tmp_path / "new"),
    )
    assert f"accelerator: {choice}" in refused.stderr


# The wheel


def test_the_wheel_carries_the_configuration(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    conf = {p.relative_to(ROOT).as_posix() for p in (ROOT / "conf").rglob("*.yaml")}
    assert "conf/config.yaml" in conf
    assert {f"trainer/{name}" for name in conf} <= {*names}
    assert "trainer/py.typed" in names
    assert not [n for n in names if n.startswith(("tests/", "scripts/")) or "__pycache__" in n]
