import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing import event_file_loader
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator as PluginEventAccumulator,
)

from trainer.job.errors import ConfigError
from trainer.tracking import metrics
from trainer.tracking.tensorboard import Tracker

ROOT = Path(__file__).parents[2]
VALUES = {"loss": 0.25, "accuracy": 0.5, "lr": 0.125, "examples_per_second": 1e5}


def load(run_dir):
    loader = EventAccumulator(str(run_dir / "tensorboard"), {"scalars": 0, "tensors": 0})
    return loader.Reload()


def load_as_tensorboard_does(run_dir):
    folder = str(run_dir / "tensorboard")
    return PluginEventAccumulator(folder, {"tensors": 0}, {"scalars": 0, "text": 0}).Reload()


def steps(run_dir, tag):
    """Return the steps of a curve, by both of TensorBoard's Python readers."""
    curve = [point.step for point in load(run_dir).Scalars(tag)]
    assert [point.step for point in load_as_tensorboard_does(run_dir).Tensors(tag)] == curve
    return curve


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def tracker(tmp_path, warnings):
    with Tracker(tmp_path, None, warnings.append) as tracker:
        yield tracker
    assert warnings == []


def test_scalars_are_in_both_files(tmp_path, tracker):
    began = time.time()
    tracker.scalars("train", 10, VALUES)
    tracker.scalars("validation", 10, {"accuracy": 0.75, "loss": math.nan})
    tracker.flush()
    loader = load(tmp_path)
    assert set(loader.Tags()["scalars"]) == {
        *(f"train/{name}" for name in VALUES),
        "validation/accuracy",
        "validation/loss",
    }
    for name, value in VALUES.items():
        (point,) = loader.Scalars(f"train/{name}")
        assert (point.step, point.value) == (10, value)
        assert began <= point.wall_time <= time.time()
    assert math.isnan(loader.Scalars("validation/loss")[0].value)
    train, test = metrics.read(tmp_path / "metrics.jsonl")
    assert train == {"step": 10, "split": "train", "time": train["time"], **VALUES}
    assert test["accuracy"] == 0.75


def test_text(tmp_path, tracker):
    tracker.text("config", "# ü")
    tracker.flush()
    (point,) = load(tmp_path).Tensors("config/text_summary")
    assert point.tensor_proto.string_val[0].decode() == "# ü"


def test_a_resumed_curve_has_each_step_once(tmp_path, warnings):
    """Restarts within one second; what came after the checkpoint is done again, differently."""
    for attempt, (resume, last) in enumerate([(None, 50), (30, 60), (30, 40), (40, 80)]):
        with Tracker(tmp_path, resume, warnings.append) as tracker:
            tracker.text("config", f"attempt {attempt}")
            for step in range(10 if resume is None else resume + 10, last + 1, 10):
                tracker.scalars("train", step, {"loss": float(attempt)})
                tracker.scalars("validation", step, {"loss": float(attempt)})
            tracker.scalars("validation", resume or 0, {"loss": -1.0})  # is there already
    expected = list(range(10, 81, 10))
    values = [0.0] * 3 + [2.0] + [3.0] * 4
    assert steps(tmp_path, "train/loss") == expected
    assert [point.value for point in load(tmp_path).Scalars("train/loss")] == values
    assert sorted(steps(tmp_path, "validation/loss")) == [0, *expected]
    logged = metrics.read(tmp_path / "metrics.jsonl")
    train = [point for point in logged if point["split"] == "train"]
    assert [point["step"] for point in train] == expected
    assert [point["loss"] for point in train] == values
    # Not by the older of the two readers: it never forgets a text.
    texts = load_as_tensorboard_does(tmp_path).Tensors("config/text_summary")
    shown = [text.tensor_proto.string_val[0].decode() for text in texts]
    assert shown == ["attempt 0", "attempt 2", "attempt 3"]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3  # nothing is left of attempt 1
    assert warnings == []


def test_a_new_start_in_the_same_directory_deletes_the_old_points(tmp_path, warnings):
    for last in (5, 3):
        with Tracker(tmp_path, None, warnings.append) as tracker:
            for step in range(1, last + 1):
                tracker.scalars("train", step, {"loss": 0.0})
    assert steps(tmp_path, "train/loss") == [1, 2, 3]
    assert len(metrics.read(tmp_path / "metrics.jsonl")) == 3


def test_kill_9_loses_nothing_flushed_and_the_curve_continues(tmp_path, warnings):
    code = (
        "import sys, pathlib; from trainer.tracking.tensorboard import Tracker\n"
        "t = Tracker(pathlib.Path(sys.argv[1]), None, print)\n"
        "for i in range(1, 10**9):\n"
        "    t.scalars('train', i, {'loss': i, 'accuracy': 0.5})\n"
        "    if i == 100: t.flush(); print('saved', flush=True)"
    )
    command = [sys.executable, "-c", code, tmp_path]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        time.sleep(0.05)
        writer.send_signal(signal.SIGKILL)
    with Tracker(tmp_path, 100, warnings.append) as tracker:
        for step in range(101, 111):
            tracker.scalars("train", step, {"loss": float(step), "accuracy": 0.5})
    assert steps(tmp_path, "train/loss") == list(range(1, 111))
    logged = metrics.read(tmp_path / "metrics.jsonl")
    assert [point["step"] for point in logged] == list(range(1, 111))
    assert warnings == []


def test_a_full_disk_warns_once_a_file_and_training_continues(tmp_path):
    """In a process of its own, whose files may not grow beyond a limit."""
    code = (
        "import resource, signal, sys, pathlib; from trainer.tracking.tensorboard import Tracker\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "with Tracker(pathlib.Path(sys.argv[1]), None, print) as t:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
        "    for i in range(1000): t.scalars('train', i, {'loss': i})\n"
        "    t.flush()\n"
        "print('done')"
    )
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code, tmp_path]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    *message, done = ended.stdout.splitlines()
    assert done == "done"
    assert sorted(line.split()[0] for line in message) == ["TensorBoard's", "metrics.jsonl"]
    assert all("File too large" in line or "No space left" in line for line in message)
    assert ended.stderr == ""
    logged = [point["step"] for point in metrics.read(tmp_path / "metrics.jsonl")]
    # Behind the first that did not fit, a shorter line may: one whose time ends in a zero.
    assert logged == sorted(set(logged))
    assert logged[:200] == list(range(200))
    assert len((tmp_path / "metrics.jsonl").read_bytes().splitlines()) == len(logged)  # none torn
    curve = steps(tmp_path, "train/loss")
    assert curve == list(range(len(curve)))
    assert len(curve) > 200


def test_a_directory_that_cannot_be_written_is_refused(tmp_path, warnings):
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(ConfigError, match=r"tensorboard cannot be written .*run\.dir="):
        Tracker(tmp_path, None, warnings.append)


def test_event_files_are_whole_records_in_time_order(tmp_path, tracker):
    tracker.scalars("train", 1, {"loss": 1.0})
    tracker.flush()
    (file,) = (tmp_path / "tensorboard").iterdir()
    events = list(event_file_loader.EventFileLoader(str(file)).Load())
    assert events[0].file_version == "brain.Event:2"
    assert [event.wall_time for event in events] == sorted(e.wall_time for e in events)


def test_points_after_a_rollback_are_gone_for_every_reader(tmp_path, warnings):
    """The fast reader of TensorBoard does not heed the mark that a start leaves."""
    with Tracker(tmp_path, None, warnings.append) as tracker:
        for step in range(10, 101, 10):
            tracker.scalars("train", step, {"loss": 1.0})
    (old,) = (tmp_path / "tensorboard").iterdir()
    old.write_bytes(old.read_bytes() + b"torn")
    with Tracker(tmp_path, 50, warnings.append) as tracker:
        tracker.scalars("train", 60, {"loss": 2.0})
    result = []
    for path in sorted((tmp_path / "tensorboard").iterdir()):
        events = event_file_loader.EventFileLoader(str(path)).Load()
        result += [event.step for event in events if event.summary.value]
    assert result == [10, 20, 30, 40, 50, 60]
    assert warnings == []
