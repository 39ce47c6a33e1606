"""A terminal shows warnings, a task's metrics and the closing table; a quiet run little else."""

import io
import math
import re

import pytest
from support.screen import MEANS, TESTED, play
from support.trained_runs import train_here

from trainer.tracking.terminal import Terminal

pytestmark = pytest.mark.usefixtures("terminal_variables")


def test_warnings_are_yellow_on_a_terminal(screen):
    Terminal(screen.stream).warn("x [bold] :smile:")
    assert screen.text() == "\x1b[33mwarning: \x1b[0mx [bold] :smile:\r\n"


@pytest.mark.parametrize("where", ["terminal", "file"])
def test_quiet_leaves_warnings_errors_and_the_table(screen, clock, where):
    stream = screen.stream if where == "terminal" else io.StringIO()
    terminal = Terminal(stream, quiet=True)
    play(terminal, clock)
    terminal.error("no")
    lines = stream.getvalue().splitlines() if where == "file" else screen.lines()[:-1]
    assert lines == [
        "warning: the disk is full",
        "status         completed",
        "test accuracy  98.06%",
        "error: no",
    ]


def test_numbers_that_are_not_finite_are_shown(screen, clock):
    for stream in (io.StringIO(), screen.stream):
        terminal = Terminal(stream)
        terminal.start(10, 0, 5)
        clock[0] += 20
        terminal.update(1, dict.fromkeys(MEANS, math.nan), math.inf)
        terminal.evaluation(
            1, 5, math.nan, "validation", {"loss": math.inf, "accuracy": math.nan}, 0.0
        )
        terminal.close()


def test_an_epoch_of_which_nothing_was_trained_has_no_training_loss():
    stream = io.StringIO()
    Terminal(stream).evaluation(1, 5, math.nan, "validation", TESTED, 0.1)
    assert "loss      -  validation loss 0.0712, acc 98.06% in 0.10 s" in stream.getvalue()


def test_a_task_has_metrics_of_its_own(clock):
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.start(10, 0, 5)
    clock[0] += 20
    terminal.update(5, {"loss": 1.25, "error": 0.5}, 1.0)
    terminal.evaluation(1, 5, 1.25, "validation", {"loss": 2.0, "error": 0.75}, 0.1)
    assert stream.getvalue().splitlines() == [
        "epoch 1/2: 5/10 loss 1.2500 error 0.5000 1 examples/s -:--:-- left",
        "epoch 1  step  5  loss 1.2500  validation loss 2.0000, error 0.7500 in 0.10 s",
    ]


def test_a_long_list_of_the_table_takes_lines_of_its_own_on_a_terminal(screen, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    shares = ", ".join(f"phase {share}%" for share in (70, 20, 8, 2))
    rows = [("where it went", shares), ("command", "a 'b, c' d, e, f, g, h, i, j, k, l, m, n")]
    Terminal(screen.stream).summary(rows)
    assert screen.lines()[:3] == [
        "where it went  phase 70%, phase 20%,",
        "phase 8%, phase 2%",
        f"command        {rows[1][1]}",
    ]
    stream = io.StringIO()
    Terminal(stream).summary(rows)
    assert stream.getvalue().splitlines()[0] == f"where it went  {shares}"


def test_a_quiet_run_writes_the_closing_table_alone(tmp_path, capsys):
    options = ("+experiment=smoke", "train.epochs=1", f"run.dir={tmp_path}", "run.quiet=true")
    assert train_here(*options) == 0
    written = capsys.readouterr()
    assert written.out == ""
    names = [re.split(r"  +", line)[0] for line in written.err.splitlines()]
    assert names[0] == "status"
    assert {"test accuracy", "run", "follow it with"} <= set(names)
    assert not any(name.startswith(("epoch", "1 process")) for name in names)
