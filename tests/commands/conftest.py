"""Commands called in the test process, and a run to verify."""

import json
import shutil

import pytest
from support.verified_run import RECORD, make_state

from trainer.checkpoint.store import Best, Checkpoints
from trainer.commands import predict, runs, verify
from trainer.job.errors import TrainerError
from trainer.job.signals import StopRequest


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A run with the checkpoints 9, 10 and 100; 9 was not evaluated."""
    run = tmp_path_factory.mktemp("pristine") / "run"
    folder, best = run / "checkpoints", Best("accuracy", largest=True)
    with Checkpoints(folder, keep_last=3, keep_best=0, best=best, warn=print) as checkpoints:
        for step, tested in (
            (9, None),
            (10, {"test_accuracy": 0.9}),
            (100, {"validation_accuracy": 0.98765}),
        ):
            checkpoints.save(step, make_state(step), RECORD, tested)
    return run


@pytest.fixture
def run(pristine, tmp_path):
    """A copy of it, to do harm to."""
    return shutil.copytree(pristine, tmp_path / "run")


@pytest.fixture
def verified(capsys):
    """Runs `verify` in this process; returns (exit code, what it printed, its error)."""

    def call(*arguments):
        try:
            code, error = verify.main([str(a) for a in arguments], StopRequest()), ""
        except TrainerError as raised:
            code, error = raised.exit_code, str(raised)
        return code, capsys.readouterr().out, error

    return call


@pytest.fixture
def listed(capsys):
    """Runs `runs --json`; returns the runs by the names of their folders."""

    def call(folder):
        assert runs.main([str(folder), "--json"], StopRequest()) == 0
        result = json.loads(capsys.readouterr().out)["runs"]
        return {run["directory"].rsplit("/", 1)[1]: run for run in result}

    return call


@pytest.fixture
def predicted(capsys, monkeypatch):
    """Runs `predict --json`; returns the exit code, the report and the other messages."""
    monkeypatch.setattr("sys.excepthook", lambda *_: None)  # restored after the test

    def call(*arguments):
        code = predict.main([str(a) for a in (*arguments, "--json")], StopRequest())
        message = capsys.readouterr()
        return code, json.loads(message.out), message.err

    return call
