"""A stream that breaks or vanishes is no failure, and Ctrl-C leaves the terminal as it was."""

import io
import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support.screen import HIDE_CURSOR, SHOW_CURSOR, Screen, play

from trainer.tracking.terminal import Terminal

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("terminal_variables")


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
