"""The help of the scripts answers at once: it installs, checks and starts nothing."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.parametrize("name", ["_venv", "bench", "check", "test", "train"])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_needs_no_environment(name, option, tmp_path):
    done = subprocess.run(
        [SCRIPTS / name, option],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "TRAINER_VENV": str(tmp_path / "venv")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"scripts/{name} " in done.stdout
    assert "set -" not in done.stdout  # a comment's end is found
    assert not list(tmp_path.iterdir())
