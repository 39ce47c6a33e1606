"""Downloads and work in parts show how far they are, in a file and on a terminal."""

import io
import re

import pytest

from trainer.tracking.terminal import Terminal

pytestmark = pytest.mark.usefixtures("terminal_variables")


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
