"""A complete run, to be copied and harmed."""

import functools
import shutil
from pathlib import Path

import pytest
from support import in_process
from support.complete_run import JOB
from support.trained_runs import trained_once

from trainer.sources import mnist
from trainer.tasks import pictures


@pytest.fixture(scope="module")
def read_once():
    """Read the data set and draw each picture once: neither depends on the files of a run."""
    draw, done = pictures.confusion_png, {}

    def drawn(counts, title, names=()):
        key = counts.tobytes(), title, tuple(names)
        return done.get(key) or done.setdefault(key, draw(counts, title, names))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist, "_packaged", functools.cache(mnist._packaged))
        patch.setattr(pictures, "confusion_png", drawn)
        yield


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    """The run of JOB: not to be changed."""

    def train(folder):
        done = in_process.train(folder, *JOB)
        assert done.returncode == 0, done.stderr
        assert in_process.summary_of(folder)["status"] == "completed"
        return folder / "run"

    return trained_once(tmp_path_factory, "pristine", train)


@pytest.fixture
def copy(pristine, tmp_path):
    """Returns a new copy of the run, in a folder of its own."""
    numbers = iter(range(10**6))

    def make():
        return Path(shutil.copytree(pristine, tmp_path / str(next(numbers)) / "run"))

    return make
