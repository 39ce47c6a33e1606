"""The files and commands of docs/tasks.md work as written."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from support.in_process import summary_of, train
from support.program import CACHE

from trainer.selftest import command as selftest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "tasks.md").read_text()
FILES = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
SESSIONS = re.findall(r"^```python\n(import trainer\n.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line) for line in re.findall(r"^    python -m trainer (.+)$", TEXT, re.MULTILINE)
]
SHORT = ("train.epochs=1", "train.pictures_every_epochs=null", "run.dir=run", "run.quiet=true")


def test_every_block_is_a_file_that_a_command_uses_or_a_command():
    assert len(FILES) + len(SESSIONS) == TEXT.count("```python")
    used = {word.partition("=")[2] for command in COMMANDS for word in command}
    assert set(FILES) <= used
    prose = re.sub("^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    assert len(COMMANDS) == len(re.findall(r"^    \S", prose, re.MULTILINE))


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_trains(arguments, tmp_path, monkeypatch):
    if arguments[0] == "laws":
        arguments = arguments[1:]  # of a task that trains; its laws are tested elsewhere
    if arguments[0] == "selftest":
        assert selftest.parse(arguments[1:]).kills == 3
        return
    if "flax_digits.py" in " ".join(arguments):
        pytest.importorskip("flax")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    if arguments[0] == "--config-dir":
        monkeypatch.setenv("TRAINER_CONFIG_DIR", str(ROOT / arguments[1]))
        arguments = arguments[2:]
    done = train(tmp_path, *arguments, *SHORT)
    assert done.returncode == 0, done.stderr
    summary = summary_of(tmp_path)
    assert summary["status"] == "completed"
    regression = "waves.py" in " ".join(arguments) or "tabular" in " ".join(arguments)
    assert (summary.get("test_accuracy") is None) == regression


@pytest.mark.parametrize("code", SESSIONS)
def test_python_code_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINER_CACHE_DIR", str(CACHE))
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    names = {"images": {"image": np.zeros((2, 28, 28), np.uint8)}}
    exec(code, names)
    assert names["outputs"]["logits"].shape == (2, 10)
