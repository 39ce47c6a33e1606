"""The proof of exact resume: real short runs of it, and that it notices what is broken."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from trainer.job.errors import TrainerError
from trainer.job.signals import StopRequest
from trainer.selftest import command, interrupt_and_compare

pytestmark = pytest.mark.slow

SHORT = ("train.epochs=2", "train.pictures_every_epochs=null")


@pytest.fixture
def fake(monkeypatch, tmp_path, capfd):
    """Runs selftest on support/fake_trainer.py; returns the exit code or the error, and stdout."""
    script = Path(__file__).parents[1] / "support" / "fake_trainer.py"
    monkeypatch.setattr(interrupt_and_compare, "PROGRAM", (sys.executable, "-S", str(script)))
    monkeypatch.setattr(interrupt_and_compare, "END_SECONDS", 1.0)

    def call(*arguments, fault=""):
        monkeypatch.setenv("FAULT", fault)
        folder = str(tmp_path / "it's work, a=b")  # as any folder may be called
        try:
            code = command.main(["--dir", folder, *arguments], StopRequest())
        except TrainerError as error:
            code = error
        return code, capfd.readouterr().out

    return call


def test_interruptions_with_flipped_bits_are_proven(fake, tmp_path):
    code, out = fake("--kills", "12", "--flip-every", "2", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["proven"]
    assert result["interruptions"] == sum(result["by_phase"].values()) == 12
    assert result["interruptions"] == sum(result["by_signal"].values())
    assert result["flipped"] == result["set_aside"] >= 1
    assert result["weights_sha256_unbroken"] == result["weights_sha256_interrupted"] == "same"
    assert not any((tmp_path / "it's work, a=b").iterdir())


@pytest.mark.parametrize(
    ("fault", "line"),
    [("weights", "+summary.json: weights_sha256: 'other'"), ("loss", "+metrics.jsonl: train ")],
)
def test_a_resumed_run_that_ends_otherwise_is_not_equal(fake, tmp_path, fault, line):
    code, out = fake("--kills", "6", fault=fault)
    assert code == 70
    assert line in out
    assert "NOT EQUAL" in out
    assert (tmp_path / "it's work, a=b" / "unbroken" / "summary.json").exists()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("forgets", "resumed from None, not from "),
        ("trusts", "resumed from "),
        ("code", "ended with 65, not with one of [0, 75]"),
        ("hangs", "did not end within 1 s"),
    ],
)
def test_a_run_that_breaks_a_promise_is_described(fake, fault, message):
    signals = "KILL" if fault in ("forgets", "trusts") else "TERM"
    arguments = ("--kills", "20", "--signals", signals, "--flip-every", "1")
    error, _ = fake(*arguments, fault=fault)
    assert error.exit_code == 70
    assert message in str(error)
    assert "kept in" in str(error)


def test_processes_layouts_and_flipped_bits_are_proven(trainer):
    # With this seed both processes are hit: jax takes long to notice the loss of another.
    layouts = ("--layouts", "1x2,2x1", "--virtual-shards", "2", "--flip-every", "1")
    options = ("--kills", "1", "--signals", "KILL,TERM", "--seed", "212", "--json", *layouts)
    done = trainer("selftest", *options, *SHORT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "kill 1/1: SIG" in done.stderr
    result = json.loads(done.stdout)
    assert result["proven"]
    assert result["flipped"] == result["set_aside"] == 1
    assert set(result["by_layout"]) == {"1x1", "1x2", "2x1"}


def test_a_job_that_fails_by_itself_hands_on_its_code_and_words(trainer, tmp_path):
    done = trainer("selftest", "--kills", "1", "--dir", "work", "optim.lr=-1")
    assert done.returncode == 78
    assert "optim.lr" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "work" / "logs").iterdir())


def test_stopped_itself_it_leaves_no_child_behind(trainer, tmp_path):
    process = trainer.start("selftest", "--kills", "9", "--dir", "work")
    lock, deadline = tmp_path / "work" / "unbroken" / "run.lock", time.monotonic() + 240
    while not lock.exists() or not lock.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child = json.loads(lock.read_text())["pid"]
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 75, err
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
