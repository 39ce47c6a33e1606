"""`dashboard` finds the folder of the runs, and says which it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def dashboard(tmp_path):
    """Calls the command in another folder; the tensorboard that it starts prints its arguments."""
    here, stub = tmp_path / "here", tmp_path / "python"
    for folder in (here, tmp_path / "checkout"):
        folder.mkdir()
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    code = (
        "import sys, pathlib, trainer.__main__; from trainer.job import resources\n"
        f"resources.home = lambda: pathlib.Path({str(tmp_path / 'checkout')!r})\n"
        f"sys.executable = {str(stub)!r}; trainer.__main__.main()"
    )

    def call(*arguments, **environ):
        return subprocess.run(
            [sys.executable, "-c", code, "dashboard", *arguments],
            cwd=here,
            env={"PATH": os.environ["PATH"], "USER": "me", "PYTHONPATH": str(ROOT), **environ},
            capture_output=True,
            text=True,
            check=False,
        )

    return call


def shown(done):
    """Return the folder, and the other arguments of tensorboard."""
    assert done.returncode == 0, done.stderr
    m, module, option, folder, *others = done.stdout.splitlines()
    assert [m, module, option] == ["-m", "tensorboard.main", "--logdir"]
    assert f"runs in {folder}: http://127.0.0.1:" in done.stderr
    return Path(folder), others


def test_help_needs_no_runs(dashboard, tmp_path):
    done = dashboard("--help")
    assert done.returncode == 0
    assert "dashboard [FOLDER]" in done.stdout
    assert not (tmp_path / "checkout" / "runs").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("there", "--port=7124"),
        ("--port=7124", "there"),
        ("--port", "7124", "there"),
        ("-p", "7124", "there"),
    ],
)
def test_the_folder_may_stand_anywhere(dashboard, tmp_path, arguments):
    (tmp_path / "here" / "there").mkdir()
    done = dashboard(*arguments)
    folder, others = shown(done)
    assert folder == tmp_path / "here" / "there"
    assert "http://127.0.0.1:7124 " in done.stderr
    assert others[:4] == ["--host", "127.0.0.1", "--port", "7124"]
    assert "there" not in others


def test_the_default_is_here_or_in_the_checkout_and_is_made(dashboard, tmp_path):
    assert shown(dashboard())[0] == tmp_path / "checkout" / "runs"
    assert (tmp_path / "checkout" / "runs").is_dir()
    (tmp_path / "here" / "runs").mkdir()
    assert shown(dashboard())[0] == tmp_path / "here" / "runs"
    root = tmp_path / "root"
    assert shown(dashboard(TRAINER_RUN_ROOT=str(root)))[0] == root


def test_a_tilde_is_the_home_as_for_training(dashboard, tmp_path):
    home = {"HOME": str(tmp_path)}
    assert shown(dashboard(TRAINER_RUN_ROOT="~/root", **home))[0] == tmp_path / "root"
    assert shown(dashboard(TRAINER_RUN_ROOT="~", **home))[0] == tmp_path
    assert list((tmp_path / "here").iterdir()) == []


def test_a_folder_that_is_named_has_to_exist(dashboard):
    done = dashboard("rnus")
    assert done.returncode == 78
    assert "rnus is not a folder" in done.stderr
