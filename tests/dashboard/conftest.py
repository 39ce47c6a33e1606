"""Runs, two TensorBoards that show them, and a browser."""

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack

import pytest
from support.board import ROOT, tensorboard
from support.browser import Browser
from support.program import CACHE
from support.shown_runs import EPOCHS, OPTIONS, RUNS, SAVED, SMOKE, STEPS, is_there
from support.trained_runs import train_here


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of runs: `resumed` is just being written, after a start that was cut off.

    What a start that is killed leaves is made by deleting the checkpoints of a complete one.
    """
    folder = tmp_path_factory.mktemp("dashboard")

    def train(name, *options):
        return train_here(*SMOKE, f"run.dir={folder / 'runs' / name}", *options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINER_CACHE_DIR", str(CACHE))
        for name in RUNS:
            assert train(name, *OPTIONS[name]) == 0
        diverging = ("model.hidden_sizes=[16]", "optim.schedule=constant", "train.epochs=1")
        diverging += ("train.pictures_every_epochs=null",)
        for name in ("failed", "mended"):
            assert train(name, *diverging, "optim.lr=1e30") == 70
        assert train("mended", *diverging, "optim.lr=1e30", "train.on_nonfinite=skip") == 0
        assert train("moved", *diverging) == 0
        assert train("moved", *diverging, "train.epochs=2", "parallel.devices=2") == 0
    run = folder / "runs" / "resumed"
    for step in range(SAVED + STEPS, EPOCHS * STEPS + 1, STEPS):
        shutil.rmtree(run / "checkpoints" / str(step))
    (run / "summary.json").unlink()
    shutil.copytree(run / "tensorboard", folder / "killed")
    command = [sys.executable, "-m", "trainer", *SMOKE, f"run.dir={run}", *OPTIONS["resumed"]]
    environ = {**os.environ, "TRAINER_CACHE_DIR": str(CACHE), "PYTHONPATH": str(ROOT)}
    with (folder / "resumed.txt").open("w") as log:
        second = subprocess.Popen(command, stderr=log, cwd=folder, env=environ)
    yield folder
    try:
        assert second.wait(240) == 0, (folder / "resumed.txt").read_text()
    finally:
        second.kill()


@pytest.fixture(scope="module")
def boards(folder):
    """The addresses of two TensorBoards: one with either of its loaders."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(tensorboard(folder / "runs", folder / f"{i}.txt", is_there, *more))
            for i, more in enumerate(((), ("--load_fast=false",)))
        ]


@pytest.fixture(scope="module")
def board(boards):
    return boards[0]


@pytest.fixture(scope="module", params=["fast", "slow"])
def any_board(request, boards):
    return boards[request.param == "slow"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser") / "profile")
    yield browser
    browser.close()
