"""The goodput account survives restarts and knows what was done twice."""

import json
import time

import pytest

from trainer.account import PHASES, Account
from trainer.goodput import Ledger


def start(path, resume_step, **seconds):
    account = Account()
    account.seconds.update(seconds)
    return Ledger(path, account, resume_step)


def test_nested_phases_are_not_counted_twice():
    account = Account()
    with account.phase("step"):
        time.sleep(0.02)
        with account.phase("compile"):
            time.sleep(0.05)
    assert account.seconds["compile"] == pytest.approx(0.05, abs=0.02)
    assert account.seconds["step"] == pytest.approx(0.02, abs=0.02)


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


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"seconds": {}}'])
def test_a_damaged_account_begins_anew(tmp_path, damage):
    path = tmp_path / "goodput.json"
    path.write_text(damage)
    assert start(path, 7, step=1.0).totals()["starts"] == 1


def test_it_is_written_seldom(tmp_path):
    path = tmp_path / "goodput.json"
    ledger = start(path, 0)
    ledger.write(1)
    ledger.write(2)
    assert json.loads(path.read_text())["reached_step"] == 1
