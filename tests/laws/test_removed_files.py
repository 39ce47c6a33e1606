"""A start names the files that were removed or damaged; a job whose lock is removed ends."""

import shutil
import sys
import time

import pytest
from support import in_process
from support.complete_run import JOB, start

from trainer.job import lock
from trainer.job.errors import TrainerError
from trainer.job.files import read_or_empty
from trainer.job.signals import StopRequest
from trainer.sweep import folder as sweep_folder

pytestmark = [
    pytest.mark.slow,  # files of JSON: on one Python only
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("read_once"),
]


def test_a_start_says_what_was_removed_since_the_last_one(copy):
    for name in ("metrics.jsonl", "tensorboard"):
        run = copy()
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
        done = start(run)
        assert done.returncode == 0
        assert f"warning: {run / name}" in done.stderr
        assert "up to step 126 are lost" in done.stderr


def test_damaged_lines_of_the_log_are_left_out_and_counted(copy):
    run = copy()
    before = in_process.points_of(run.parent)
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join([lines[0], b'{"step": "2"}\n', *lines[1:]]))
    done = start(run)
    assert "1 damaged lines are left out" in done.stderr
    assert in_process.points_of(run.parent) == before


def test_read_or_empty_says_nothing_about_what_is_missing(tmp_path):
    warnings = []
    for path in (tmp_path / "a.json", tmp_path / "b" / "a.json"):
        assert read_or_empty(path, {}, warnings.append) == {}
    assert warnings == []
    assert sweep_folder.read_plan(tmp_path) == ([], {})


class RemovesTheLock(StopRequest):
    """Is asked before each dispatch; removes the lock of the run once checkpoint 42 is written."""

    def __init__(self, path):
        super().__init__()
        self.path, self.dispatches = path, 0

    def __call__(self):
        self.dispatches += sys._getframe(1).f_code.co_name == "dispatch"
        if self.dispatches == 3 and self.path.exists():  # of 21 steps each
            while not (self.path.parent / "checkpoints" / "42").exists():
                time.sleep(0.01)
            self.path.unlink()
        return super().__call__()


def test_a_lock_that_is_removed_ends_the_job_before_the_next_save(tmp_path):
    stop = RemovesTheLock(tmp_path / "run" / lock.NAME)
    done = in_process.train(tmp_path, *JOB, "train.epochs=9", stop=stop)
    code = done.returncode
    assert code == 78
    assert "run.lock was removed or replaced while this job ran" in done.stderr
    saved = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved == ["42"]
    assert not (tmp_path / "run" / "summary.json").exists()
    done = in_process.train(tmp_path, *JOB, "train.epochs=9")
    assert (done.returncode, "after step 42" in done.stderr) == (0, True)


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / lock.NAME).symlink_to("precious")
    with pytest.raises(TrainerError, match=r"run\.lock cannot be written"), lock.hold(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_summary_that_cannot_be_written_ends_with_74(copy):
    run = copy()
    (run / "summary.json").unlink()
    (run / "summary.json" / "x").mkdir(parents=True)
    done = start(run)
    code = done.returncode
    assert code == 74
    assert f"no summary in {run}" in done.stderr
