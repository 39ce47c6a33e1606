"""The lock, the environment script and the wheel: what people install is what was tested."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
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


# The lock


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


# The environment


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


# The wheel


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
