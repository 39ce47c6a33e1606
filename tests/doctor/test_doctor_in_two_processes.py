"""`doctor` checks two processes together, and names the one that hangs, dies or fails."""

import sys

import pytest
from support.connected import CONNECTED, variables
from support.findings import DOCTOR, table
from support.program import Trainer

from trainer.job.processes import free_address

PATCHED = "{}; from trainer.__main__ import main; main()"
BEATING = """
from trainer.distributed.collectives import share
from trainer.distributed.heartbeat import Heartbeat
with Heartbeat(60, print):
    start_devices(topology, options, print)
"""
# Case: (what process 1 does, options of process 0).
PAIRS = {
    "well, but for its clock": (
        PATCHED.format("import time; now = time.time; time.time = lambda: now() + 60"),
        (),
    ),
    "fails alone, behind the first sum": (
        PATCHED.format("from trainer.doctor import checks; checks.ROUNDS = None"),
        (),
    ),
    "stands still": (
        f"{CONNECTED}time.sleep(600)",
        ("cluster.heartbeat_timeout_seconds=4",),
    ),
    "hangs, but lives": (
        f"{CONNECTED}{BEATING}    time.sleep(600)",
        ("cluster.hang_timeout_seconds=4",),
    ),
    "dies": (f"{CONNECTED}{BEATING}    share(lambda: None)\n    os._exit(1)", ()),
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Doctor in two processes, once for each case: the exit code and the findings of process 0.

    And the exit code and standard error of process 1, where that is doctor as well.
    """
    trainer = Trainer(tmp_path_factory.mktemp("doctor"))
    started, results = {}, {}
    for case, (program, options) in PAIRS.items():
        where = free_address()
        started[case] = (
            trainer.start(*DOCTOR, *options, **variables(2, 0, where)),
            trainer.start(
                *DOCTOR, program=(sys.executable, "-c", program), **variables(2, 1, where)
            ),
        )
    for case, (first, second) in started.items():
        out, err = first.communicate(timeout=240)
        assert "Traceback" not in err
        if CONNECTED in PAIRS[case][0]:
            second.kill()
        second.communicate(timeout=240)
        results[case] = first.returncode, table(out), second.returncode
    yield results
    trainer.close()


def test_two_processes_are_checked_together(pairs):
    code, result, other = pairs["well, but for its clock"]
    assert (code, other) == (0, 0), result
    assert "process 0 of 2" in result["topology"]["message"]
    assert "2 in all" in result["devices"]["message"]
    assert result["one step"]["level"] == "ok"
    clocks = result["clocks"]
    assert clocks["level"] == "warning"
    assert clocks["message"].startswith(("at most 60.", "at most 59.9"))
    assert "time service" in clocks["hint"]


def test_a_process_that_stands_still_is_named_below_all_other_findings(pairs):
    code, result, _ = pairs["stands still"]
    assert code == 69
    message = result["end"]["message"]
    assert message.startswith("lost process 1 (did not name itself): silent for 4 s")
    assert result["meeting"]["level"] == result["free space"]["level"] == "ok"


def test_a_process_that_hangs_but_lives_ends_the_check_in_time(pairs):
    code, result, _ = pairs["hangs, but lives"]
    assert code == 69
    assert result["devices"]["level"] == "ok"
    assert result["mesh"]["message"] == "no end within cluster.hang_timeout_seconds=4"


def test_a_process_that_dies_fails_the_collective(pairs):
    code, result, _ = pairs["dies"]
    assert code == 69
    failed = [finding["check"] for finding in result.values() if finding["level"] == "failure"]
    assert failed == ["run directory", "end"]
    assert result["mesh"]["level"] == "ok"
    assert result["end"]["message"].startswith("lost process 1 (host ")


def test_a_process_that_fails_alone_does_not_keep_the_others(pairs):
    code, result, other = pairs["fails alone, behind the first sum"]
    assert (code, other) == (69, 69)
    assert result["run directory"]["level"] == "ok"
    assert result["all-reduce"]["level"] == "failure"
