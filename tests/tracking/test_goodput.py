"""The goodput account survives restarts and knows what was done twice."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer.tracking.goodput import PHASES, Ledger, PhaseTimer

ROOT = Path(__file__).parents[2]


def start(path, resume_step, logged_step=0, **seconds):
    timer = PhaseTimer()
    timer.seconds.update(seconds)
    return Ledger(path, timer, resume_step, logged_step)


def test_nested_phases_are_not_counted_twice():
    timer, began = PhaseTimer(), time.perf_counter()
    with timer.phase("step"):
        time.sleep(0.02)
        with timer.phase("compile"):
            time.sleep(0.05)
    wall = time.perf_counter() - began
    assert timer.seconds["compile"] >= 0.05
    assert 0.02 <= timer.seconds["step"] <= wall - timer.seconds["compile"]


def test_the_parts_add_up_to_the_time_by_the_clock():
    timer = PhaseTimer()
    began = time.perf_counter()
    before = timer.parts
    for _ in range(2):
        with timer.phase("data_wait"):
            time.sleep(0.02)
        with timer.phase("step"):
            time.sleep(0.03)
        with timer.phase("evaluate"):
            time.sleep(0.01)
    parts = {name: seconds - before[name] for name, seconds in timer.parts.items()}
    assert parts["data_wait"] >= 0.04
    assert parts["compute"] >= 0.06
    assert parts["rest"] >= 0.02
    assert sum(parts.values()) <= time.perf_counter() - began


def test_the_account_adds_up_over_restarts_and_counts_lost_work(tmp_path):
    path = tmp_path / "goodput.json"
    start(path, 0, step=10.0, compile=2.0).write(100, now=True)  # killed; last checkpoint at 60
    second = start(path, 60, step=5.0, compile=1.0)
    second.write(110, now=True)
    totals = json.loads(path.read_text())
    assert totals == second.totals()
    assert totals["starts"] == 2
    assert totals["seconds"] == {**dict.fromkeys(PHASES, 0.0), "step": 15.0, "compile": 3.0}
    assert totals["lost_steps"] == 40
    assert totals["lost_seconds"] == pytest.approx(4.0)
    assert totals["goodput"] == pytest.approx(11 / 18)


def test_a_clean_restart_loses_nothing(tmp_path):
    path = tmp_path / "goodput.json"
    start(path, 0, step=1.0).write(100, now=True)
    assert start(path, 100).totals()["lost_steps"] == 0


@pytest.mark.parametrize("damage", ["", "{", "\0\0"])
def test_a_damaged_account_starts_over(tmp_path, damage):
    path = tmp_path / "goodput.json"
    path.write_text(damage)
    assert start(path, 7, step=1.0).totals()["starts"] == 1


def test_steps_logged_after_the_last_write_are_lost_work_too(tmp_path):
    path = tmp_path / "goodput.json"
    start(path, 0, step=10.0).write(100, now=True)
    totals = start(path, 60, logged_step=110).totals()
    assert totals["lost_steps"] == 50
    assert totals["lost_seconds"] == pytest.approx(5.0)
    assert totals["seconds"]["step"] == pytest.approx(11.0)
    assert totals["goodput"] == pytest.approx(6 / 11)


def test_it_is_written_seldom_and_at_once_if_it_must(tmp_path):
    path = tmp_path / "goodput.json"
    ledger = start(path, 0)
    assert json.loads(path.read_text())["starts"] == 1  # also of one that dies before training
    ledger.write(1)
    assert json.loads(path.read_text())["reached_step"] == 0
    ledger.write(3, now=True)
    assert json.loads(path.read_text())["reached_step"] == 3


BEGINS = "from trainer.tracking.goodput import process_seconds; print(process_seconds())"


def test_the_account_begins_with_the_imports():
    began = time.monotonic()
    seconds = float(subprocess.check_output([sys.executable, "-c", BEGINS], cwd=ROOT))
    assert 0 < seconds < time.monotonic() - began


def test_the_account_leaves_out_what_the_process_was_before():
    script = ["bash", "-c", 'sleep 1; exec "$@"', "bash", sys.executable, "-c", BEGINS]
    assert float(subprocess.check_output(script, cwd=ROOT)) < 1
