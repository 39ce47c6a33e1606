"""`runs` looks at jobs at work, and is never in their way."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
from support.trained_runs import copy, everything

from trainer.commands import runs
from trainer.job import lock
from trainer.job.errors import ConfigError
from trainer.job.signals import StopRequest
from trainer.tracking import runs as tracking_runs

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_looking_changes_nothing_and_stops_no_job(smoke_run, tmp_path, listed):
    run = copy(smoke_run, tmp_path / "run")
    before = everything(tmp_path)
    with lock.hold(run):
        assert listed(tmp_path)["run"]["status"] == "running"
    assert listed(tmp_path)["run"]["status"] == "completed"
    after = everything(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"run/run.lock"}  # of hold()


def test_the_age_of_a_job_at_work_is_that_of_its_last_sign_of_life(smoke_run, tmp_path, capsys):
    run = copy(smoke_run, tmp_path / "run")
    *_, last = (run / "metrics.jsonl").read_text().splitlines()
    logged = json.loads(last)["time"]
    with lock.hold(run):
        for changed, seen in ((logged - 5000, logged), (logged + 600, logged + 600)):
            os.utime(run, (changed, changed))
            assert tracking_runs.describe(run).updated == pytest.approx(seen)
        hours_ago = time.time() - 3 * 3600
        (run / "metrics.jsonl").write_text(json.dumps({**json.loads(last), "time": hours_ago}))
        os.utime(run, (hours_ago - 60, hours_ago - 60))
        assert runs.main([str(tmp_path)], StopRequest()) == 0
    assert re.search(r"run +running .* 3 h ", capsys.readouterr().out)


def test_a_job_may_start_while_somebody_looks(tmp_path):
    (tmp_path / lock.NAME).touch()
    looking = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from trainer.job import lock\n"
            "print('looking', flush=True)\n"
            "while True: lock.held(Path(sys.argv[1]))",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert looking.stdout.readline() == "looking\n"
        for _ in range(200):
            with lock.hold(tmp_path):
                pass
    finally:
        looking.kill()
        looking.communicate()


def test_a_job_that_holds_the_lock_is_still_in_the_way(tmp_path):
    with (
        lock.hold(tmp_path),
        pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"),
        lock.hold(tmp_path),
    ):
        pass
