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
from trainer.selftest import command, inspect
from trainer.selftest import options as selftest_options
from trainer.selftest.children import Layout, environment
from trainer.selftest.report import Tally, allowed_codes, report, rows
from trainer.tracking import runs

pytestmark = pytest.mark.slow

SHORT = "train.epochs=2"


def parse(*arguments):
    return selftest_options.read(selftest_options.parser().parse_args(arguments))


def test_the_parent_does_not_import_jax():
    code = "import sys, trainer.selftest.command; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--kills", "many"], "--help"),
        (["--nonsense"], "--help"),
        (["--kills", "0"], "--help"),
        (["--processes", "-1"], "--help"),
        (["--signals", "KILL,HUP"], "--signals HUP"),
        (["--layouts", "1x1"], "--virtual-shards"),
        (["--layouts", "2y2", "--virtual-shards", "4"], "2y2"),
        (["--layouts", "3x1", "--virtual-shards", "4"], "multiple of 3"),
        (["--layouts", "1x1", "--virtual-shards", "4", "--devices", "2"], "1x1"),
        (["run.dir=elsewhere"], "run.dir"),
        (["cluster.heartbeat_timeout_seconds=30"], "selftest sets"),
    ],
)
def test_bad_options_are_refused_without_a_run(arguments, told, capfd):
    with pytest.raises(ConfigError) as raised:
        command.main(arguments, StopRequest())
    assert told in str(raised.value)
    assert raised.value.exit_code == 78
    assert "Traceback" not in capfd.readouterr().err


def test_help_and_bad_options_on_the_command_line(trainer, tmp_path):
    done = trainer("selftest", "--help")
    assert done.returncode == 0
    assert "--flip-every" in done.stdout
    done = trainer("selftest", "--kills", "0")
    assert done.returncode == 78
    assert "--kills: 0: use a whole number from 1 on" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    done = trainer("selftest", "--dir", "full")
    assert done.returncode == 78
    assert "--dir full" in done.stderr


def test_an_experiment_of_the_user_replaces_the_short_job():
    assert parse("optim.lr=0.1").overrides == [*selftest_options.JOB, "optim.lr=0.1"]
    assert parse("+experiment=mlp").overrides == ["+experiment=mlp"]


def test_children_know_of_no_cluster_but_ours():
    outside = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "JAX_PROCESS_ID": "3", "HOME": "/home"}
    outside["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --other"
    alone = environment(outside, Layout(1, 2), 0, "127.0.0.1:1", one_thread=False)
    assert alone == {"HOME": "/home", "XLA_FLAGS": f"--other {selftest_flag(2)}"}
    second = environment(outside, Layout(2, 2), 1, "127.0.0.1:1", one_thread=False)
    assert second["JAX_COORDINATOR_ADDRESS"] == "127.0.0.1:1"
    assert (second["JAX_NUM_PROCESSES"], second["JAX_PROCESS_ID"]) == ("2", "1")
    assert second["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert not [name for name in second if name.startswith("SLURM")]


def selftest_flag(count):
    return f"--xla_force_host_platform_device_count={count}"


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
    told = inspect.differences(one, changed)
    assert [line for line in told if "weights_sha256" in line]
    assert [line for line in told if "train 2" in line and "0.25" in line]
    assert [line for line in told if "2 times" in line]
    (line,) = inspect.differences(one, write_run(tmp_path / "short", points[:1]))
    assert "missing" in line
    (line,) = inspect.differences(one, write_run(tmp_path / "turned", points[::-1]))
    assert "order" in line


def test_one_bit_of_the_largest_file_is_flipped(tmp_path):
    folder = tmp_path / "checkpoints" / "30"
    folder.mkdir(parents=True)
    (folder / "small").write_bytes(bytes(8))
    (folder / "large").write_bytes(bytes(64))
    assert inspect.flip_bit(tmp_path, 30, random.Random(0)) == "checkpoints/30/large"
    assert sum(byte.bit_count() for byte in (folder / "large").read_bytes()) == 1
    assert (folder / "small").read_bytes() == bytes(8)


def test_the_table_tells_the_verdict_and_what_differs():
    tally = Tally(interruptions=3, by_signal=Counter(SIGKILL=3), peer_ends=Counter({"75": 2}))
    table = dict(rows(report(tally, "a", "a", [], 1.0, None)))
    assert table["verdict"].startswith("proven")
    assert "3 SIGKILL" in table["interruptions"]
    assert "75: 2" in table["peers of lost ones"]
    table = dict(rows(report(tally, "a", "b", ["this"], 1.0, Path("/kept"))))
    assert (table["verdict"], table["differs"]) == ("NOT EQUAL", "this")


def test_which_exit_codes_are_accepted():
    term, kill = signal.SIGTERM, signal.SIGKILL
    assert allowed_codes(term, hit=True, clean=True) == {0, 75}
    assert allowed_codes(kill, hit=True, clean=False) == {0, -9}
    assert allowed_codes(kill, hit=False, clean=False) == {0, 75, -6}
    assert 65 not in allowed_codes(term, hit=True, clean=False)


def test_a_program_that_changes_during_the_proof_proves_nothing(tmp_path, monkeypatch):
    digests = iter(("before", "after"))
    monkeypatch.setattr(inspect, "program", lambda: next(digests))
    monkeypatch.setattr(command.Proof, "unbroken", lambda _: tmp_path)
    monkeypatch.setattr(command.Proof, "chain", lambda _: tmp_path)
    (tmp_path / "summary.json").write_text('{"weights_sha256": "a"}')
    with pytest.raises(TrainerError, match="changed during the proof"):
        command.main(["--dir", str(tmp_path / "work")], StopRequest())


def test_four_interruptions_are_proven(trainer, tmp_path):
    folder = tmp_path / "it's work, a=b"  # as any folder may be called
    options = ("--kills", "4", "--json", "--dir", folder.name, "--seed", "3")
    done = trainer("selftest", *options, SHORT, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["proven"]
    assert result["interruptions"] == sum(result["by_phase"].values()) == 4
    assert result["weights_sha256_unbroken"] == result["weights_sha256_interrupted"]
    assert "kill 4/4" in done.stderr
    assert list(folder.iterdir()) == []


def test_two_processes_are_proven(trainer):
    # With this seed both are hit late: a loss in start-up takes jax long to notice.
    options = ("--kills", "2", "--processes", "2", "--seed", "180")
    done = trainer("selftest", *options, SHORT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "proven" in done.stdout


def test_a_chain_of_layouts_with_flipped_bits_is_proven(trainer):
    layouts = ("--layouts", "1x1,1x2", "--virtual-shards", "2", "--flip-every", "1")
    options = ("--kills", "4", "--signals", "KILL,TERM", "--json", *layouts)
    done = trainer("selftest", *options, SHORT, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["proven"]
    assert result["flipped"] == result["set_aside"] >= 1


def tamper(run: Path) -> None:
    """Change a digit of the first logged loss of an interrupted run, once it will be kept."""
    deadline = time.monotonic() + 120
    while not inspect.committed(run) or not runs.points(run):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with (run / "metrics.jsonl").open("r+b") as file:
        line = file.readline()
        place = line.index(b".", line.index(b'"loss"')) + 1
        file.seek(place)
        file.write(b"1" if line[place : place + 1] != b"1" else b"2")


def test_a_log_that_was_changed_between_restarts_is_noticed(trainer, tmp_path):
    process = trainer.start("selftest", "--kills", "1", "--dir", "work", SHORT)
    tamper(tmp_path / "work" / "broken-1")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 70, err
    assert "NOT EQUAL" in out
    assert "metrics.jsonl: train 9:" in out
    assert (tmp_path / "work" / "broken-1" / "summary.json").exists()


def test_a_job_that_fails_by_itself_hands_on_its_code_and_words(trainer, tmp_path):
    done = trainer("selftest", "--kills", "1", "--dir", "work", "optim.lr=-1")
    assert done.returncode == 78
    assert "optim.lr" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "work" / "logs").iterdir())


def test_stopped_itself_it_leaves_no_child_behind(trainer, tmp_path):
    process = trainer.start("selftest", "--kills", "9", "--dir", "work")
    lock, deadline = tmp_path / "work" / "unbroken" / "run.lock", time.monotonic() + 60
    while not lock.exists() or not lock.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child = json.loads(lock.read_text())["pid"]
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 75, err
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
