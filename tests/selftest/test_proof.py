"""`selftest` refuses wrong options, and each step of its proof does what it says."""

import json
import random
import signal
import subprocess
import sys
from collections import Counter

import pytest

from trainer.job.errors import ConfigError
from trainer.job.signals import StopRequest
from trainer.selftest import command, inspect
from trainer.selftest.children import Layout, environment
from trainer.selftest.interrupt_and_compare import Interruption, allowed_codes

pytestmark = pytest.mark.slow


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
