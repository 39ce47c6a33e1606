"""Eight simulated devices, strict dtypes and ranks, no implicit transfer, the real data set."""

import os
import signal
import sys
from pathlib import Path
from unittest.mock import patch

# Before jax is imported. One thread a device: eight devices that share two cores' threads can
# wait for each other in a collective.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from support import kept_programs
from support.program import Trainer

# Under nohup this is ignored, and the processes that the tests start would ignore it, too.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="session")
def first_path():
    """Return sys.path as it is before any test."""
    return [*sys.path]


@pytest.fixture(autouse=True)
def nothing_left_behind(first_path):
    """Give each test the environment that the one before it got, and the first sys.path.

    Commands set variables, and add the folders of users' files to the path.
    """
    kept_programs.keep()
    with patch.dict(os.environ), patch.object(sys, "path", [*first_path]):
        yield


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder of the four real MNIST files, named by TRAINER_MNIST_DIR."""
    folder = os.environ.get("TRAINER_MNIST_DIR")
    if not folder:
        pytest.skip("set TRAINER_MNIST_DIR to the folder of the four MNIST files")
    return Path(folder)


@pytest.fixture
def trainer(tmp_path):
    """The trainer's command line; runs in the empty folder tmp_path."""
    command = Trainer(tmp_path)
    yield command
    command.close()


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory):
    """A finished run of +experiment=smoke: not to be changed, but for what a command adds."""
    from support.trained_runs import SMOKE, train, trained_once

    return trained_once(tmp_path_factory, "smoke", lambda folder: train(folder, *SMOKE))


@pytest.fixture(scope="session")
def mnist_run(tmp_path_factory, mnist_dir):
    """A finished run on MNIST: not to be changed either."""
    from support.trained_runs import MNIST, train, trained_once

    options = (*MNIST[:-1], f"data.root={mnist_dir}", MNIST[-1])
    return trained_once(tmp_path_factory, "mnist", lambda folder: train(folder, *options))


@pytest.fixture(scope="session")
def kinds_run(tmp_path_factory):
    """A finished run on images of 8 x 6 pixels in 3 classes: not to be changed either."""
    from support.trained_runs import train_on_three_kinds, trained_once

    return trained_once(tmp_path_factory, "kinds", train_on_three_kinds)


@pytest.fixture(scope="module")
def cluster():
    """A SLURM cluster of three emulated nodes; most jobs take two."""
    from support.slurm_cluster import running

    with running() as started:
        yield started


def pytest_collection_modifyitems(items):
    """The long ones first: of several workers, none is left alone with one at the end.

    These are marked slow, are laws, which compile most, or start processes.
    """
    items.sort(
        key=lambda item: (
            item.get_closest_marker("slow") is None and item.path.parent.name != "laws",
            "trainer" not in item.fixturenames,
        )
    )


def pytest_sessionfinish(session, exitstatus):
    """Where everything can run (TRAINER_NO_SKIPS, set by CI), a skipped test is a failure."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        kept_programs.make_room()
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if os.environ.get("TRAINER_NO_SKIPS") and skipped and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
