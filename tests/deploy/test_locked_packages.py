"""The lock has what pyproject.toml states, by version and hash, for every supported Python."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
STATED = {"base": PYPROJECT["project"]["dependencies"], **PYPROJECT["dependency-groups"]}
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
PYTHONS = ("3.11", "3.12", "3.13")
THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def locked(name: str, python: str = THIS_PYTHON) -> dict[str, str]:
    """Return name -> version of what Linux gets for a group, or for an extra with the base."""
    files = [name] if name in STATED else ["base", name]
    here = {"python_version": python, "python_full_version": f"{python}.0"}
    versions = {}
    for file in files:
        text = (ROOT / f"requirements/{file}.txt").read_text()
        for line in re.findall(r"^[^\s#].*?(?= \\$)", text, re.MULTILINE):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate(here):
                assert pin.name not in versions, "two versions of a package, or one in base.txt too"
                versions[pin.name] = str(pin.specifier).removeprefix("==")
    return versions


def test_the_classifiers_name_the_tested_pythons():
    classifiers = "\n".join(PYPROJECT["project"]["classifiers"])
    assert tuple(re.findall(r"Python :: (3\.\d+)$", classifiers, re.MULTILINE)) == PYTHONS


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", [*STATED, *EXTRAS])
def test_the_lock_has_what_pyproject_states(name, python):
    versions = locked(name, python)
    for requirement in map(Requirement, STATED.get(name) or EXTRAS[name]):
        if requirement.name == PYPROJECT["project"]["name"]:  # other extras
            for extra in requirement.extras:
                assert locked(extra, python).items() <= versions.items()
        else:
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("name", [*STATED, *EXTRAS])
def test_what_is_installed_needs_nothing_outside_the_lock(name):
    """The transitive closure, for this Python and the packages that are installed."""
    versions = locked(name)
    for package in versions:
        try:
            requirements = importlib.metadata.requires(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, requirements):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                version = versions.get(canonicalize_name(requirement.name))
                assert version is not None, f"{package} needs {requirement}"
                assert requirement.specifier.contains(version, prereleases=True)


@pytest.mark.parametrize("file", sorted((ROOT / "requirements").iterdir()), ids=lambda f: f.name)
def test_the_lock_has_versions_and_hashes_and_names_no_host_and_no_folder(file):
    pin = r"[\w.-]+==[\w.]+( ; [\w.]+ [<>=!]+ '[\w.]+'( and [\w.]+ [<>=!]+ '[\w.]+')*)?"
    if file.name == "constraints.txt":
        block = rf"# pyproject.toml: [0-9a-f]{{64}}\n({pin}\n)+"
    else:
        block = rf"({pin}( \\\n    --hash=sha256:[0-9a-f]{{64}})+\n)+"
    assert re.fullmatch(block, file.read_text())


def test_the_check_sees_a_changed_pyproject(tmp_path):
    for name in ("scripts/lock", "requirements/constraints.txt", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    check = [sys.executable, tmp_path / "scripts/lock", "--check"]
    assert subprocess.run(check).returncode == 0
    pyproject = (ROOT / "pyproject.toml").read_text()
    for old, new in (
        ("numpy>=2.0", "numpy>=2.1"),
        ("onnx = [", "other = ["),
        ("\nbuild = ", "\nb = "),
    ):
        (tmp_path / "pyproject.toml").write_text(pyproject.replace(old, new, 1))
        refused = subprocess.run(check, capture_output=True, text=True)
        assert refused.returncode == 1
        assert "run scripts/lock" in refused.stderr
