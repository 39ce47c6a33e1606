"""A training is shown as plain lines in a file, on a terminal as one bar with lines above it."""

import io
import os
import re

import pytest
from support.screen import HIDE_CURSOR, MEANS, SHOW_CURSOR, TESTED, play

from trainer.tracking.terminal import Terminal

pytestmark = pytest.mark.usefixtures("terminal_variables")


def test_a_pipe_gets_plain_lines(clock):
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        play(Terminal(stream), clock)
    with os.fdopen(reader, "rb") as stream:
        text = stream.read().decode()
    assert text.splitlines() == [
        "downloading images.gz: 0.0/9.9 MB",
        "resuming after step 0",
        "epoch 1/2: 160/400 loss 0.0063 acc 50.0% 51,234 examples/s 0:00:15 left",
        "epoch 1  step 200  loss 0.0312  validation loss 0.0712, acc 98.06% in 0.12 s",
        "epoch 2/2: 320/400 loss 0.0031 acc 50.0% 51,234 examples/s 0:00:05 left",
        "epoch 2  step 400  loss 0.0312  validation loss 0.0712, acc 98.06% in 0.12 s",
        "warning: the disk is full",
        "status         completed",
        "test accuracy  98.06%",
    ]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)


def test_plain_lines_are_at_least_ten_seconds_apart_also_at_first(clock):
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.start(10_000, 0, 100)
    for step in range(1, 1000):
        clock[0] += 0.099
        terminal.update(step, MEANS, 1.0)
    assert len(stream.getvalue().splitlines()) == 9


def test_a_terminal_gets_one_bar_and_lines_above_it(screen, clock):
    play(Terminal(screen.stream), clock)
    lines = screen.lines()
    (bar,) = {line for line in lines if "200/400" in line}
    assert re.fullmatch(
        r"epoch 1/2 ━+[╸╺]?━+ 200/400 loss 0.0050 acc 50.0% 51,234 examples/s 0:00:12 left", bar
    )
    assert any("downloading images.gz" in line and "9.9/9.9 MB" in line for line in lines)
    written = (
        "resuming after step 0",
        "epoch 2  step 400  loss 0.0312  validation loss 0.0712, acc 98.06% in 0.12 s",
        "warning: the disk is full",
        "status         completed",
        "test accuracy  98.06%",
    )
    positions = [lines.index(line) for line in written]
    assert positions == sorted(positions)
    assert "400/400" in lines[positions[3] - 1]  # the bar stays, finished
    text = screen.text()
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR) == 2
    assert text.rfind(SHOW_CURSOR) > text.rfind(HIDE_CURSOR)


def test_a_bar_and_the_line_of_an_epoch_fit_80_columns(screen, clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal(screen.stream)
    terminal.start(46_900, 0, 938)
    terminal.update(45_000, {"loss": 0.1234, "accuracy": 0.98}, 51234.0)
    clock[0] += 1
    terminal.update(46_000, {"loss": 0.1234, "accuracy": 0.98}, 51234.0)
    terminal.close()
    terminal.evaluation(50, 46_900, 0.1234, "validation", TESTED, 12.34)
    assert all(len(line) <= 80 for line in screen.lines())
    bars = [line for line in screen.lines() if "46000/46900" in line]
    assert bars
    assert all(bar.endswith(" left") and "…" not in bar for bar in bars)


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (100, "460/469 loss 0.1234 acc 98.0% recall 0.7000 51,234 examples/s -:--:-- left"),
        (80, "460/469 loss 0.1234 acc 98.0% 51,234 examples/s -:--:-- left"),
        (66, "460/469 loss 0.1234 51,234 examples/s -:--:-- left"),
        (60, "460/469 loss 0.1234 -:--:-- left"),
        (36, "460/469 -:--:-- left"),
    ],
)
def test_a_narrow_bar_leaves_metrics_out_but_not_the_time_left(screen, monkeypatch, columns, shown):
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal = Terminal(screen.stream)
    terminal.start(469, 0, 10)
    means = {"loss": 0.1234, "accuracy": 0.98, "recall": 0.7, "perplexity": 1234.5}
    terminal.update(460, means, 51234.0)
    terminal.close()
    bars = [line for line in screen.lines() if "460/469" in line]
    assert re.fullmatch(rf"epoch 46/47 [━╸╺]+ {shown}", bars[-1])


def test_a_ctrl_c_on_the_line_of_the_bar_does_not_wrap(screen, clock):
    play(Terminal(screen.stream), clock)
    drawn = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.text()))
    assert max(len(line) for line in drawn if "━" in line) == 100 - len("^C")


def test_a_bar_is_drawn_ten_times_a_second_at_most(screen, clock):
    terminal = Terminal(screen.stream)
    terminal.start(10_000, 0, 100)
    for step in range(1, 1001):  # 10 s
        clock[0] += 0.01
        terminal.update(step, MEANS, 1.0)
    terminal.close()
    assert 90 <= screen.text().count("/10000") <= 110


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("CI", "true")])
def test_plain_lines_on_a_terminal_that_cannot_or_should_not_draw(
    screen, clock, monkeypatch, name, value
):
    monkeypatch.setenv(name, value)
    play(Terminal(screen.stream), clock)
    assert "\x1b" not in screen.text()


def test_no_color_keeps_the_bar(screen, clock, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    play(Terminal(screen.stream), clock)
    text = screen.text()
    assert "━" in text
    colours = {code for codes in re.findall(r"\x1b\[([\d;]*)m", text) for code in codes.split(";")}
    assert colours <= {"", "0", "1"}  # bold at most


def test_a_resumed_run_estimates_from_what_it_does_itself(clock):
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.start(1000, 900, 100)
    clock[0] += 60  # compiles
    terminal.update(900, MEANS, 1.0)
    clock[0] += 20
    terminal.update(920, MEANS, 1.0)
    first, second = stream.getvalue().splitlines()
    assert first.endswith("-:--:-- left")
    assert second.endswith("0:01:20 left")


def test_a_second_training_after_close(screen, clock):
    terminal = Terminal(screen.stream)
    for total in (10, 20):
        terminal.start(total, 0, 5)
        terminal.update(total, MEANS, 1.0)
        terminal.close()
        terminal.update(total, MEANS, 1.0)  # draws nothing
    lines = screen.lines()
    assert any("20/20" in line for line in lines)
    assert any("10/10" in line for line in lines)
