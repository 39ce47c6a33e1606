"""Child processes of the sweep, the self-test and scripts/local: started, awaited, ended."""

import sys
import time
from pathlib import Path

import pytest

from trainer.job import processes

SLEEP = [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '60'])"]


def test_waiting_ends_with_the_last_child_and_looks_meanwhile():
    children = [processes.start(["sleep", seconds]) for seconds in ("0", "0.1")]
    looks = []
    assert processes.wait(children, 10, lambda: looks.append(1))
    assert looks
    assert [child.returncode for child in children] == [0, 0]


def test_waiting_ends_after_the_seconds_and_with_what_look_raises():
    child = processes.start(["sleep", "60"])
    try:
        began = time.monotonic()
        assert not processes.wait([child], 0.05)
        assert 0.04 < time.monotonic() - began < 5
        with pytest.raises(ZeroDivisionError):
            processes.wait([child], None, lambda: 1 / 0)
    finally:
        processes.end([child])
    assert child.returncode == -9


def test_ending_kills_what_the_children_have_started():
    child = processes.start(SLEEP)
    own = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    while not (pids := own.read_text().split()):
        time.sleep(0.01)
    processes.end([child])
    deadline = time.monotonic() + 240
    while running(pids[0]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not running(pids[0])


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
