"""What a newcomer's terminal shows fits its width, and docs/first-minute.md shows the same."""

import os
import re
import sys

import pytest
from support.first_minute import COLUMNS, DOCUMENT, ROOT, Screen, record
from support.program import CACHE

COMMAND = [sys.executable, "-m", "trainer", "+experiment=smoke"]


def shape(line):
    """Return a line without what differs from run to run."""
    line = re.sub(r"[━╸╺]+", "━", line.strip())
    line = re.sub(r"(in|run|dashboard) +[/\w.-]+/[/\w.-]+$", r"\1 FOLDER", line)
    line = re.sub(r"where it went.*", "where it went", line.replace("mnist_5k", "mnist"))
    return re.sub(r" +", " ", re.sub(r"[\d,.]*\d", "0", line))


@pytest.mark.parametrize("columns", COLUMNS)
def test_it_fits_the_terminal_and_is_what_the_document_shows(tmp_path, columns):
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environ |= {"TRAINER_CACHE_DIR": str(CACHE), "JAX_PLATFORMS": "cpu"}
    code, output = record(COMMAND, columns, tmp_path, environ)
    assert code == 0, output
    screen = Screen(columns, output)
    lines = screen.lines()
    too_long = {lines[row - 1] for row in screen.wrapped}
    assert all(str(tmp_path)[:20] in line for line in too_long), too_long  # only a folder's name
    text = DOCUMENT.read_text().partition(f"## {columns} columns")[2].partition("##")[0]
    shown = {shape(line) for line in text.splitlines()}
    folders = ("1 process", "run ", "follow it with", " ")  # " ": a list continues
    whole = [n for n in range(len(lines)) if n not in screen.wrapped]
    unknown = [lines[n] for n in whole if not lines[n].startswith(folders)]
    assert [line for line in unknown if shape(line) not in shown] == []


def test_ctrl_c_is_no_error_and_says_what_to_type(tmp_path):
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environ |= {"TRAINER_CACHE_DIR": str(CACHE), "JAX_PLATFORMS": "cpu"}
    command = [*COMMAND, "model.hidden_sizes=[8, 8]", "train.epochs=100000"]
    code, output = record(command, 80, tmp_path, environ, stop_after="epoch +3 ")
    lines = Screen(1000, output).lines()
    assert code == 75
    assert not any(line.startswith("error:") for line in lines)
    assert any(re.fullmatch("stopped: SIGINT: saved after step [0-9,]+", line) for line in lines)
    (run,) = (tmp_path / "runs" / "smoke").iterdir()
    typed = "+experiment=smoke 'model.hidden_sizes=[8, 8]' train.epochs=100000"
    label, command = lines[-1].split(" python", 1)
    assert label.strip() == "resume it with"
    assert command == f" -m trainer {typed} run.name={run.name}"
