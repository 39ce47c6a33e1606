"""The proof of exact resume: real short runs of it, and that it notices what is broken."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from trainer.job.errors import ConfigError, TrainerError
from trainer.job.signals import StopRequest
from trainer.selftest import command, inspect, interrupt_and_compare
from trainer.selftest.children import Layout, environment
from trainer.selftest.interrupt_and_compare import Interruption, allowed_codes

pytestmark = pytest.mark.slow

SHORT = ("train.epochs=2", "train.pictures_every_epochs=null")


def test_the_parent_does_not_import_jax():
    code = "import sys, trainer.selftest.command; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--kills", "many"], "--help"),
        (["--nonsense"], "--help"),
        (["--kills", "0"], "--help"),
        (["--processes", "-1"], "--help"),
        (["--signals", "KILL,HUP"], "--help"),
        (["--layouts", "2y2", "--virtual-shards", "4"], "--help"),
        (["--layouts", "1x1"], "--virtual-shards"),
        (["--shard-states", "half", "--virtual-shards", "4"], "--help"),
        (["--shard-states", "all"], "--virtual-shards"),
        (["run.dir=elsewhere"], "run.dir"),
        (["cluster.heartbeat_timeout_seconds=30"], "selftest sets"),
    ],
)
def test_bad_options_are_refused_without_a_run(arguments, named, capfd):
    with pytest.raises(ConfigError) as raised:
        command.main(arguments, StopRequest())
    assert named in str(raised.value)
    assert raised.value.exit_code == 78
    assert "Traceback" not in capfd.readouterr().err


def test_help_and_bad_options_on_the_command_line(trainer, tmp_path):
    done = trainer("selftest", "--help")
    assert done.returncode == 0
    assert "--flip-every" in done.stdout
    done = trainer("selftest", "--kills", "0")
    assert done.returncode == 78
    assert "--kills: 0: use a whole number from 1 up" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    done = trainer("selftest", "--dir", "full")
    assert done.returncode == 78
    assert "--dir full" in done.stderr


def test_an_experiment_of_the_user_replaces_the_short_job():
    assert command.parse(["optim.lr=0.1"]).overrides == [*command.JOB, "optim.lr=0.1"]
    own = ["model=module", "model.module=a.py", "data=mnist", "train.epochs=3"]
    assert command.parse(own).overrides == [*command.JOB[3:], *own]
    assert command.parse(["+experiment=mlp"]).overrides == ["+experiment=mlp"]


def test_children_know_of_no_cluster_but_ours():
    outside = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "JAX_PROCESS_ID": "3", "HOME": "/home"}
    outside["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --other"
    alone = environment(outside, Layout(1, 2), 0, "127.0.0.1:1", most=1)
    assert alone == {"HOME": "/home", "XLA_FLAGS": "--other", "JAX_NUM_CPU_DEVICES": "2"}
    second = environment(outside, Layout(2, 2), 1, "127.0.0.1:1", most=1)
    assert second["JAX_COORDINATOR_ADDRESS"] == "127.0.0.1:1"
    assert (second["JAX_NUM_PROCESSES"], second["JAX_PROCESS_ID"]) == ("2", "1")
    assert second["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert not [name for name in second if name.startswith("SLURM")]
    simulated = environment(outside, Layout(1, 2), 0, "127.0.0.1:1", most=512)
    assert simulated["NPROC"] == "512"
    assert simulated["XLA_FLAGS"] == "--other --xla_cpu_multi_thread_eigen=false"


def write_run(folder, points, **summary):
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps({"weights_sha256": "a", **summary}))
    lines = [json.dumps({"split": "train", "time": random.random(), **point}) for point in points]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder


def test_differences_names_what_differs(tmp_path):
    points = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]
    one = write_run(tmp_path / "one", points)
    assert inspect.differences(one, write_run(tmp_path / "same", points)) == []
    other = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.25}, {"step": 2, "loss": 0.25}]
    changed = write_run(tmp_path / "other", other, weights_sha256="b")
    lines = inspect.differences(one, changed)
    assert "-summary.json: weights_sha256: 'a'" in lines
    assert "+summary.json: weights_sha256: 'b'" in lines
    assert "-metrics.jsonl: train 2: {'split': 'train', 'step': 2, 'loss': 0.5}" in lines
    assert len([line for line in lines if line.startswith("+metrics.jsonl: train 2")]) == 2
    assert inspect.differences(one, write_run(tmp_path / "short", points[:1]))
    assert inspect.differences(one, write_run(tmp_path / "turned", points[::-1]))


def test_a_program_that_changes_during_the_proof_is_a_difference(tmp_path):
    one, other = (write_run(tmp_path / name, []) for name in ("one", "other"))
    for run, digest in ((one, "a"), (other, "b")):
        (run / "environment.json").write_text(
            json.dumps({"versions": {"trainer's source": digest}})
        )
    assert "environment.json" in inspect.differences(one, other)[2]


def test_one_bit_of_the_largest_file_is_flipped(tmp_path):
    folder = tmp_path / "checkpoints" / "30"
    folder.mkdir(parents=True)
    (folder / "small").write_bytes(bytes(8))
    (folder / "large").write_bytes(bytes(64))
    assert inspect.flip_bit(tmp_path, 30, random.Random(0)) == "checkpoints/30/large"
    assert sum(byte.bit_count() for byte in (folder / "large").read_bytes()) == 1
    assert (folder / "small").read_bytes() == bytes(8)


def test_the_table_has_counts_and_differences():
    by_signal = Counter(SIGKILL=3, SIGTERM=1)
    table = command.rows({"by_signal": by_signal, "redone": 3, "differences": ["this", "that"]})
    assert table[:2] == [("by signal", "3 SIGKILL, 1 SIGTERM"), ("redone", "3")]
    assert table[2:] == [("differences", "this"), ("differences", "that")]


def test_which_exit_codes_are_accepted():
    term, kill = (Interruption(number, [0], 1.0) for number in (signal.SIGTERM, signal.SIGKILL))
    assert allowed_codes(None, 0, clean=True) == {0}
    assert allowed_codes(term, 0, clean=True) == allowed_codes(term, 1, clean=True) == {0, 75}
    assert allowed_codes(kill, 0, clean=False) == {0, -9}
    assert allowed_codes(kill, 1, clean=False) == {0, 75, -6}
    assert 65 not in allowed_codes(term, 0, clean=False)


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
