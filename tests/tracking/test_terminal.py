import io
import math
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support.trained_runs import train_here

from trainer.tracking import terminal as module
from trainer.tracking.terminal import Terminal

ROOT = Path(__file__).parents[2]
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"
MEANS = {"loss": 1.0, "accuracy": 0.5}
TESTED = {"loss": 0.0712, "accuracy": 0.9806}


class Screen:
    """A real pseudo-terminal; `stream` is the program's end, `text()` all that it wrote."""

    def __init__(self):
        self._master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self._parts = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        try:
            while part := os.read(self._master, 65536):
                self._parts.append(part)
        except OSError:  # the program's end is closed
            pass

    def text(self):
        self.stream.close()
        self._reader.join()
        return b"".join(self._parts).decode()

    def lines(self):
        """Return what was drawn, one drawing or line each, without the control sequences."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text())
        return [line.strip() for line in re.split(r"[\r\n]+", plain)]

    def close(self):
        self.text()
        os.close(self._master)


@pytest.fixture(autouse=True)
def environ(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("CI", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def screen():
    screen = Screen()
    yield screen
    screen.close()


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set: clock[0], in seconds."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def play(terminal, clock, steps=400):
    """Tell a whole run of two epochs; each step takes 1/16 s."""
    terminal.download("downloading images.gz", 0, 9_900_000)
    terminal.download("downloading images.gz", 9_900_000, 9_900_000)
    terminal.note("resuming after step 0")
    terminal.start(steps, 0, steps // 2)
    for step in range(1, steps + 1):
        clock[0] += 1 / 16
        terminal.update(step, {"loss": 1 / step, "accuracy": 0.5}, 51234.0)
        if step % (steps // 2) == 0:
            terminal.evaluation(2 * step // steps, step, 0.0312, "validation", TESTED, 0.123)
    terminal.warn("the disk is full")
    terminal.close()
    terminal.summary([("status", "completed"), ("test accuracy", "98.06%")])
    terminal.close()


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


def test_a_download_of_unknown_size_and_a_second_try(screen, clock):
    terminal = Terminal(screen.stream)
    terminal.download("downloading a", 0, None)
    terminal.download("downloading a", 0, 2_000_000)  # from another mirror
    clock[0] += 1
    terminal.download("downloading a", 2_000_000, 2_000_000)
    terminal.download("downloading a", 2_000_000, 2_000_000)
    terminal.note("there")
    assert screen.lines().count("there") == 1
    stream = io.StringIO()
    plain = Terminal(stream)
    plain.download("downloading a", 0, None)
    plain.download("downloading a", 5, None)
    plain.download("downloading b", 0, 1_500_000)
    assert stream.getvalue() == "downloading a: 0.0 MB\ndownloading b: 0.0/1.5 MB\n"


def test_the_bar_of_a_failed_download_vanishes(screen, clock):
    terminal = Terminal(screen.stream)
    terminal.download("downloading a", 500, 1_000)
    terminal.download("downloading a", 0, 0)
    terminal.note("no mirror has it")
    text = screen.text()
    drawn = text.rindex("downloading a")
    erased = re.search(r"(\x1b\[1A\x1b\[2K)+no mirror", text[drawn:].replace("\r", ""))
    assert erased, text
    assert "100%" not in text
    stream = io.StringIO()
    Terminal(stream).download("downloading a", 0, 0)
    assert stream.getvalue() == ""


def test_a_long_download_says_every_ten_seconds_how_far_it_is(clock):
    stream = io.StringIO()
    terminal = Terminal(stream)
    for second in range(26):
        terminal.download("downloading images.gz", second * 100_000, 9_900_000)
        clock[0] += 1
    assert stream.getvalue().splitlines() == [
        "downloading images.gz: 0.0/9.9 MB",
        "downloading images.gz: 1.0/9.9 MB",
        "downloading images.gz: 2.0/9.9 MB",
    ]


def labour(terminal, clock):
    """Two parts of 16 s each, whose status changes every 2 s."""
    for part in (1, 2):
        for second in range(0, 16, 2):
            terminal.work(f"{part}/2 part", part - 1, 2, f"{second} s")
            clock[0] += 2
        terminal.work(f"{part}/2 part", part, 2, "")
        terminal.note(f"{part}/2 part: completed")
    terminal.close()


def test_work_in_a_file_is_a_line_for_each_part_and_every_ten_seconds(clock):
    stream = io.StringIO()
    labour(Terminal(stream), clock)
    assert stream.getvalue().splitlines() == [
        "1/2 part: 0 s",
        "1/2 part: 10 s",
        "1/2 part: completed",
        "2/2 part: 0 s",
        "2/2 part: 10 s",
        "2/2 part: completed",
    ]


def test_work_on_a_terminal_is_a_bar_that_ends_full_and_without_a_status(screen, clock):
    labour(Terminal(screen.stream), clock)
    lines = screen.lines()
    assert any(re.fullmatch(r"1/2 part ━+ 14 s", line) for line in lines)
    assert any(re.fullmatch(r"2/2 part ━+╺━+ 14 s", line) for line in lines)
    assert "1/2 part: completed" in lines
    *_, last = (line for line in lines if "━" in line)
    assert re.fullmatch(r"2/2 part ━+", last)
    done, left = "38;5;70", "38;5;237"  # colours
    bar = screen.text().rpartition("2/2 part")[2]
    assert done in bar
    assert left not in bar


def side_by_side(terminal, clock):
    """Three parts, two at once, for 16 s each; the status of each changes every 2 s."""
    for done, names in enumerate(("ab", "bc", "c")):
        for second in range(0, 16, 2):
            terminal.rows(done, 3, {name: f"{second} s [{name}]" for name in names})
            clock[0] += 2
        terminal.note(f"{names[0]} is completed")
    terminal.close()


def test_parts_side_by_side_in_a_file_have_lines_each_every_ten_seconds(clock):
    stream = io.StringIO()
    side_by_side(Terminal(stream), clock)
    assert stream.getvalue().splitlines() == [
        *("a: 0 s [a]", "b: 0 s [b]", "a: 10 s [a]", "b: 10 s [b]", "a is completed"),
        *("c: 0 s [c]", "b: 4 s [b]", "c: 10 s [c]", "b: 14 s [b]", "b is completed"),
        *("c: 4 s [c]", "c: 14 s [c]", "c is completed"),
    ]


def test_parts_side_by_side_on_a_terminal_are_lines_below_one_bar(screen, clock):
    side_by_side(Terminal(screen.stream), clock)
    lines = screen.lines()
    at = lines.index("b  14 s [b]")
    assert lines[at - 1] == "a  14 s [a]"
    assert re.fullmatch(r"0/3 ━+", lines[at - 2])
    *_, last = (number for number, line in enumerate(lines) if "━" in line)
    assert re.fullmatch(r"2/3 ━+╺?━*", lines[last])
    assert not any("[c]" in line for line in lines[last:])  # what was at work vanishes


def test_quiet_work_says_nothing(screen, clock):
    stream = io.StringIO()
    for terminal in (Terminal(stream, quiet=True), Terminal(screen.stream, quiet=True)):
        terminal.work("1/2 part", 0, 2, "0 s")
        terminal.rows(0, 2, {"1/2 part": "0 s"})
        terminal.close()
    assert stream.getvalue() == screen.text() == ""


def test_a_quiet_run_writes_the_closing_table_alone(tmp_path, capsys):
    options = ("+experiment=smoke", "train.epochs=1", f"run.dir={tmp_path}", "run.quiet=true")
    assert train_here(*options) == 0
    written = capsys.readouterr()
    assert written.out == ""
    names = [re.split(r"  +", line)[0] for line in written.err.splitlines()]
    assert names[0] == "status"
    assert {"test accuracy", "run", "follow it with"} <= set(names)
    assert not any(name.startswith(("epoch", "1 process")) for name in names)


def test_a_closed_stream_is_no_failure(clock):
    stream = io.StringIO()
    stream.close()
    play(Terminal(stream), clock)
    stream = io.StringIO()
    terminal = Terminal(stream)
    stream.close()
    play(terminal, clock)


def test_no_standard_error_is_no_failure(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    play(Terminal(), clock)


def test_a_broken_pipe_is_no_failure(clock):
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    terminal = Terminal(stream)
    os.close(reader)
    play(terminal, clock)
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_a_terminal_that_goes_away_is_no_failure(clock):
    master, slave = pty.openpty()
    stream = os.fdopen(slave, "w")
    terminal = Terminal(stream)
    terminal.start(100, 0, 10)
    os.read(master, 65536)
    os.close(master)
    before = sys.stderr
    play(terminal, clock)
    assert sys.stderr is before
    with pytest.raises(OSError):
        stream.close()


def in_a_terminal(code):
    """Start Python code in a process of its own whose standard error is a terminal."""
    screen = Screen()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=screen.stream,
        text=True,
    )
    return process, screen


START = "from trainer.tracking.terminal import Terminal\nt = Terminal()\nt.start(100, 0, 10)\n"


def test_ctrl_c_leaves_the_cursor_and_no_thread():
    process, screen = in_a_terminal(
        "import signal, threading, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # `pytest &` ignores it
        f"{START}"
        "print(threading.active_count(), flush=True)\n"
        "for step in range(1, 10**9): t.update(step % 100, {'loss': 1.0}, 1.0)"
    )
    assert process.stdout.readline() == "1\n"
    time.sleep(0.2)
    for _ in range(60):  # Python may lose one: an exception inside a destructor goes nowhere
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=1)
            break
    text = screen.text()
    screen.close()
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in text
    assert text.rfind(SHOW_CURSOR) > text.rfind(HIDE_CURSOR) > -1


def test_prints_to_standard_error_stand_above_the_bar_and_to_standard_output_go_there():
    process, screen = in_a_terminal(
        f"import sys\n{START}print('result')\nprint('from a library', file=sys.stderr)\nt.close()"
    )
    out, _ = process.communicate(timeout=240)
    lines = screen.lines()
    screen.close()
    assert out == "result\n"
    assert "from a library" in lines
