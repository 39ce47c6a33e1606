import json
import math
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.harm import files_of_at_most

from trainer.tracking.metrics import MetricsLog, read

ROOT = Path(__file__).parents[2]


def steps(path, split="train"):
    return [point["step"] for point in read(path) if point["split"] == split]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def log(path):
    log = MetricsLog(path, None)
    yield log
    log.close()


def test_one_json_object_a_line(path, log):
    assert log.append("train", 10, {"loss": 0.1, "accuracy": 1}, 1.7e9)
    assert log.append("validation", 10, {"loss": 2.0}, 1.7e9 + 0.1234)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 10, "split": "train", "time": 1.7e9, "loss": 0.1, "accuracy": 1.0},
        {"step": 10, "split": "validation", "time": 1.7e9 + 0.123, "loss": 2.0},
    ]


@given(value=st.floats() | st.sampled_from([math.nan, math.inf, -math.inf]))
@settings(max_examples=40, deadline=None)
def test_every_float_comes_back_bit_for_bit_from_strict_json(value):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        log = MetricsLog(path, None)
        log.append("train", 1, {"loss": value}, 0.0)
        log.close()
        json.loads(path.read_text(), parse_constant=pytest.fail)
        (point,) = read(path)
    assert point["loss"] == value or (math.isnan(point["loss"]) and math.isnan(value))


def test_a_new_start_deletes_all_points(path, log):
    log.append("train", 1, {}, 0.0)
    MetricsLog(path, None).close()
    assert read(path) == []


def test_resume_keeps_complete_lines_up_to_the_step_and_the_first_of_each(path):
    lines = [
        '{"step": 1, "split": "train", "time": 0.0, "loss": 1}',
        '{"step": 2, "split": "train", "time": 0.0, "loss": 2}',
        '{"step": 2, "split": "validation", "time": 0.0, "loss": 3}',
        '{"step": 2, "split": "train", "time": 0.0, "loss": 4}',
        "\0\0\0",
        '{"step": 3, "split": "train", "time": 0.0, "loss": 5}',
        '{"step": 2, "spl',
    ]
    path.write_text("\n".join(lines))
    MetricsLog(path, 2).close()
    assert path.read_text().splitlines() == lines[:3]


def test_a_point_from_before_the_resume_is_not_logged_again(path, log):
    log.append("validation", 5, {"loss": 1.0}, 0.0)
    resumed = MetricsLog(path, 5)
    assert not resumed.append("validation", 5, {"loss": 1.0}, 0.0)
    assert resumed.append("train", 5, {"loss": 1.0}, 0.0)
    resumed.close()
    assert [point["split"] for point in read(path)] == ["validation", "train"]


@given(
    attempts=st.lists(
        st.tuples(st.integers(0, 12), st.floats(0, 1), st.integers(0, 60)), max_size=6
    ),
    every=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_each_step_stands_once_after_any_number_of_restarts(attempts, every):
    """Each attempt resumes from a checkpoint, does some steps, and dies with a torn line."""
    folder = Path(tempfile.mkdtemp())
    path = folder / "metrics.jsonl"
    checkpoint, reached = None, 0
    for more, kept_fraction, torn in [*attempts, (20, 1.0, 0)]:
        log = MetricsLog(path, checkpoint)
        reached = checkpoint or 0
        for step in range(reached + 1, reached + more + 1):
            log.append("train", step, {"loss": float(step)}, 0.0)
            if step % every == 0:
                log.append("validation", step, {"loss": float(step)}, 0.0)
            reached = step
        log.close()
        with path.open("ab") as file:
            file.write(b'{"step": 1, "split": "train", "time": 0.0, "loss": 12345678}'[:torn])
        # Any step that is done may be the newest good checkpoint, or there may be none.
        checkpoint = int(reached * kept_fraction) or None
    assert steps(path) == list(range(1, reached + 1))
    assert steps(path, "validation") == list(range(every, reached + 1, every))
    assert all(point["loss"] == point["step"] for point in read(path))
    shutil.rmtree(folder)


def test_kill_9_leaves_at_most_one_torn_line(path):
    code = (
        "import sys, pathlib; from trainer.tracking.metrics import MetricsLog\n"
        "log = MetricsLog(pathlib.Path(sys.argv[1]), None)\n"
        "for i in range(10**9): log.append('train', i, {'loss': i, 'accuracy': .5}, 0.)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not (path.exists() and path.stat().st_size > 50_000):
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    logged = steps(path)
    assert logged == list(range(len(logged)))
    assert len(path.read_bytes().splitlines()) - len(logged) in (0, 1)
    resume = len(logged) // 2
    log = MetricsLog(path, resume)
    log.append("train", resume + 1, {}, 0.0)
    log.close()
    assert steps(path) == list(range(resume + 2))


def test_a_failed_write_leaves_no_torn_line_and_the_next_may_succeed(path, log):
    log.append("train", 1, {"loss": 1.0}, 0.0)
    whole = path.read_bytes()
    with files_of_at_most(len(whole) + 10):
        for step in (2, 3):
            with pytest.raises(OSError):
                log.append("train", step, {"loss": 1.0}, 0.0)
            assert path.read_bytes() == whole
    log.append("train", 4, {"loss": 1.0}, 0.0)
    assert steps(path) == [1, 4]


def test_read_while_it_is_written(path, log):
    for step in range(1, 6):
        log.append("train", step, {}, 0.0)
        assert steps(path)[-1] == step


def test_closing_twice_is_fine_and_a_closed_log_says_so(log):
    log.close()
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.append("train", 1, {}, 0.0)
