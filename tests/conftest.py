"""Eight simulated devices, strict dtypes and ranks, no implicit transfer, the real data set."""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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

from trainer.job import lock, processes

# Under nohup this is ignored, and the processes that the tests start would ignore it, too.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def no_variable_left_behind():
    """Give each test the environment that the one before it got: commands set variables."""
    with patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder of the four real MNIST files, named by TRAINER_MNIST_DIR."""
    folder = os.environ.get("TRAINER_MNIST_DIR")
    if not folder:
        pytest.skip("set TRAINER_MNIST_DIR to the folder of the four MNIST files")
    return Path(folder)


PROGRAM = (sys.executable, "-m", "trainer")


class Trainer:
    """Starts `python -m trainer` as its users do: in a process of its own, in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []

    def start(
        self,
        *arguments: str,
        devices: int = 1,
        program: tuple[str, ...] = PROGRAM,
        **environ: str,
    ) -> subprocess.Popen[str]:
        """Start it and return at once."""
        root = Path(__file__).parent.parent
        flag = f"--xla_force_host_platform_device_count={devices}"
        simulated = {} if devices == 1 else {"XLA_FLAGS": flag}  # looking at flags takes 0.2 s
        process = subprocess.Popen(
            [*program, *arguments],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder.parent),
                "PYTHONPATH": str(root),
                "JAX_PLATFORMS": "cpu",
                "TRAINER_CACHE_DIR": str(CACHE),
                **simulated,
                **environ,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def __call__(
        self, *arguments: str, devices: int = 1, timeout: float = 120, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Start it, wait for its end, and return the code and what it printed."""
        process = self.start(*arguments, devices=devices, **environ)
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start_all(
        self,
        count: int,
        *arguments: str,
        devices: int = 1,
        program: tuple[str, ...] = PROGRAM,
        **environ: str,
    ) -> list[subprocess.Popen[str]]:
        """Start the processes of one run."""
        address = processes.free_address()
        return [
            self.start(
                *arguments,
                devices=devices,
                program=program,
                **processes.environment(environ, count, index, address),
            )
            for index in range(count)
        ]

    def wait_for_step(self, step: int, run: str = "run") -> None:
        """Wait until the log of a run shows a step."""
        path = self.folder / run / "metrics.jsonl"
        deadline = time.monotonic() + 240
        while not (path.exists() and f'"step": {step},' in path.read_text()):
            ended = [process for process in self.started if process.poll() is not None]
            if time.monotonic() > deadline or len(ended) == len(self.started):
                message = [process.communicate()[1] for process in ended]
                raise AssertionError(f"step {step} was not reached: {message}")
            time.sleep(0.01)

    def close(self) -> None:
        """End what still runs."""
        for process in self.started:
            process.kill()
            process.communicate()


# Compiled programs, shared by all tests: pytest-xdist's workers inherit the variable.
if "TRAINER_TESTS_CACHE" not in os.environ:
    os.environ["TRAINER_TESTS_CACHE"] = tempfile.mkdtemp(prefix="trainer-tests-")
    atexit.register(shutil.rmtree, os.environ["TRAINER_TESTS_CACHE"], ignore_errors=True)
CACHE = Path(os.environ["TRAINER_TESTS_CACHE"])


@pytest.fixture
def trainer(tmp_path):
    """The trainer's command line; runs in the empty folder tmp_path."""
    command = Trainer(tmp_path)
    yield command
    command.close()


def trained_once(tmp_path_factory, name: str, train: Callable[[Path], Path]) -> Path:
    """Train a run once for all workers of pytest-xdist, which share the parent of their folders."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, done = root / f"run-of-{name}", root / f"run-of-{name}.txt"
    with lock.turn(root / f"{name}.lock"):
        if not done.exists():
            folder.mkdir()
            done.write_text(str(train(folder)))
    return Path(done.read_text())


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory):
    """A finished run of +experiment=smoke: not to be changed, but for what a command adds."""
    from support.trained_runs import SMOKE, train

    return trained_once(tmp_path_factory, "smoke", lambda folder: train(folder, *SMOKE))


@pytest.fixture(scope="session")
def mnist_run(tmp_path_factory, mnist_dir):
    """A finished run on MNIST: not to be changed either."""
    from support.trained_runs import MNIST, train

    options = (*MNIST[:-1], f"data.root={mnist_dir}", MNIST[-1])
    return trained_once(tmp_path_factory, "mnist", lambda folder: train(folder, *options))


@pytest.fixture(scope="session")
def kinds_run(tmp_path_factory):
    """A finished run on images of 8 x 6 pixels in 3 classes: not to be changed either."""
    from support.trained_runs import train_on_three_kinds

    return trained_once(tmp_path_factory, "kinds", train_on_three_kinds)


@pytest.fixture(scope="module")
def cluster():
    """A SLURM cluster of three emulated nodes; most jobs take two."""
    from support.slurm_cluster import running

    with running() as started:
        yield started


def pytest_collection_modifyitems(items):
    """The long ones first: of several workers, none is left alone with one at the end.

    These are marked slow, or start processes.
    """
    items.sort(
        key=lambda item: (
            item.get_closest_marker("slow") is None,
            "trainer" not in item.fixturenames,
        )
    )


def pytest_sessionfinish(session, exitstatus):
    """Where everything can run (TRAINER_NO_SKIPS, set by CI), a skipped test is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if os.environ.get("TRAINER_NO_SKIPS") and skipped and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
