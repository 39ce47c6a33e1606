"""What surrounds a process: closed streams, variables of libraries, signals, addresses."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import in_process
from support.program import CACHE
from support.trained_runs import copy

from trainer.job.errors import EXIT_COMPLETED, EXIT_CONFIG, EXIT_RETRY
from trainer.job.signals import SIGNALS

ROOT = Path(__file__).parents[2]
TRAIN = ("+experiment=smoke", "model.hidden_sizes=[8]", "train.epochs=1", "run.dir=new")
COMMANDS = {
    "train": (*TRAIN, "train.pictures_every_epochs=null"),
    "version": ("--version",),
    "help": ("--help",),
    "runs": ("runs", "."),
    "verify": ("verify", "run"),
    "evaluate": ("evaluate", "run"),
}


def run(folder, *arguments, closed="", **environ):
    """Run the command line by a shell that closes some of its streams."""
    command = f'exec "$@" {closed}'
    return subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, "-m", "trainer", *arguments],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "JAX_PLATFORMS": "cpu",
            "TRAINER_CACHE_DIR": str(CACHE),
            **environ,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("command", "closed"),
    [
        *((command, "<&- >&- 2>&-") for command in COMMANDS),
        *((command, closed) for command in ("train", "runs") for closed in (">&-", "2>&-")),
    ],
)
def test_closed_streams_change_no_exit_code(smoke_run, tmp_path, command, closed):
    copy(smoke_run, tmp_path / "run")
    done = run(tmp_path, *COMMANDS[command], closed=closed, TF_CPP_MIN_LOG_LEVEL="0")
    assert done.returncode == EXIT_COMPLETED, done.stderr
    assert "Traceback" not in done.stderr
    if command == "train":
        (events,) = (tmp_path / "new" / "tensorboard").glob("events.*")
        assert b"external/" not in events.read_bytes()  # lines that XLA logs
        assert json.loads((tmp_path / "new" / "summary.json").read_text())["status"] == "completed"


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        ("train", "JAX_ENABLE_X64", ""),
        ("train", "JAX_ENABLE_X64", "perhaps"),
        ("train", "JAX_TRACEBACK_FILTERING", "x"),
        ("train", "XLA_FLAGS", "--xla_foo_bar=1"),
        ("train", "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=maybe"),
        ("train", "XLA_FLAGS", "no_file"),
        ("evaluate", "JAX_ENABLE_X64", "perhaps"),
        ("evaluate", "XLA_FLAGS", "--xla_foo_bar=1"),
    ],
)
def test_a_wrong_variable_of_jax_is_named(smoke_run, tmp_path, command, name, value):
    copy(smoke_run, tmp_path / "run")
    done = run(tmp_path, *COMMANDS[command], **{name: value})
    assert done.returncode == EXIT_CONFIG
    assert f"error: {name}={value}: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_notebook_s_backend_for_drawing_does_not_matter(tmp_path):
    backend = "module://matplotlib_inline.backend_inline"
    done = run(tmp_path, *TRAIN, MPLBACKEND=backend)
    assert done.returncode == EXIT_COMPLETED, done.stderr


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_every_signal_that_asks_to_end_saves(tmp_path, number):
    log, ended = tmp_path / "run" / "metrics.jsonl", threading.Event()

    def ask():
        while not ended.wait(0.01):
            if log.exists() and '"step": 10,' in log.read_text():
                return os.kill(os.getpid(), number)

    asking = threading.Thread(target=ask)
    asking.start()
    long = ("train.epochs=5000", "train.log_every_steps=10", "train.steps_per_dispatch=2")
    done = in_process.train(tmp_path, *TRAIN[:2], *long, "run.dir=run")
    ended.set()
    asking.join()
    assert done.returncode == EXIT_RETRY, done.stderr
    assert f"{number.name}: saved after step" in done.stderr


def test_nohup_keeps_a_job_running(tmp_path):
    code = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN);"
        "from trainer.job.signals import StopRequest; stop = StopRequest(); stop.install();"
        "os.kill(os.getpid(), signal.SIGHUP); os.kill(os.getpid(), signal.SIGTERM);"
        "print(stop.signal_name)"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == signal.SIGTERM.name


@pytest.mark.parametrize(
    "option",
    [
        "run.root=gs://bucket/runs",
        "run.dir=s3://b/r",
        "data.root=https://host/x",
        "data.cache_dir=gs://c",
    ],
)
def test_an_address_is_no_folder(tmp_path, option):
    done = in_process.train(tmp_path, "+experiment=smoke", option)
    assert done.returncode == EXIT_CONFIG
    assert f"{option}: name a folder, in UTF-8; addresses are not supported" in done.stderr
    assert not list(tmp_path.iterdir())
