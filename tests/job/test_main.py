"""The exit code is the documented one, whatever becomes of what is printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.program import CACHE

ROOT = Path(__file__).parents[2]
FULL = Path("/dev/full")


def code_of(*arguments, **options):
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "trainer", *arguments]
    return subprocess.run(command, check=False, **{"env": environ, **options}).returncode


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_an_error_that_cannot_be_printed_keeps_its_code(tmp_path, stream):
    with FULL.open("w") as full:
        assert code_of("optim.lr=-1", cwd=tmp_path, **{stream: full}) == 78


def test_a_run_that_cannot_print_is_done_all_the_same(tmp_path):
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environ["TRAINER_CACHE_DIR"] = str(CACHE)
    job = ("+experiment=smoke", "run.dir=run", "train.epochs=1", "train.pictures_every_epochs=null")
    with FULL.open("w") as full:
        assert code_of(*job, stdout=full, stderr=full, cwd=tmp_path, env=environ) == 0


@pytest.mark.parametrize(
    "command", ["runs --json .", "submit slurm --dry-run --no-plan +experiment=smoke"]
)
def test_a_result_that_cannot_be_printed_is_told(tmp_path, command):
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "trainer", *command.split()],
            check=False,
            cwd=tmp_path,
            env=environ,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 74
    assert done.stderr.startswith("error: standard output cannot be written (No space left")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["logging", "jax"])
def test_ctrl_c_during_the_imports_is_a_stop_request(tmp_path, module):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.abc, os, signal, sys\n"
        "class Stopping(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Stopping())\n"
    )
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "trainer", "+experiment=smoke", "run.dir=run"]
    done = subprocess.run(
        command, check=False, cwd=tmp_path, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 75, done.stderr
    assert re.search("^stopped: SIGINT received ", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["+experiment=smoke"], ["evaluate", "run"]])
def test_a_python_without_the_packages_is_named(tmp_path, words):
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-S", "-m", "trainer", *words]  # -S: without site-packages
    done = subprocess.run(
        command, check=False, cwd=tmp_path, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 69
    (line,) = done.stderr.splitlines()
    assert re.match(rf"error: {sys.executable} has no package \w+: run the one that scripts/", line)


def test_an_error_of_the_trainer_itself_ends_with_70_and_its_traceback(tmp_path):
    """A module that cannot be imported stands for it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.abc, sys\n"
        "class Broken(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'trainer.commands.train':\n"
        "            raise LookupError('broken')\n"
        "sys.meta_path.insert(0, Broken())\n"
    )
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "trainer"]
    done = subprocess.run(command, check=False, env=environ, capture_output=True, text=True)
    assert done.returncode == 70
    assert "Traceback" in done.stderr
    assert "LookupError: broken" in done.stderr


def test_a_platform_that_is_not_there_is_told(trainer):
    done = trainer("+experiment=smoke", "run.dir=run", JAX_PLATFORMS="bogus")
    assert done.returncode == 78
    assert "JAX_PLATFORMS=bogus" in done.stderr
    assert "Traceback" not in done.stderr
