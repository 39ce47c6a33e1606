import json
import math
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer.job import files

ROOT = Path(__file__).parents[2]


def test_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "summary.json"
    files.write_json(path, {"a": 1})
    files.write_json(path, {"b": [1, 2.5, None, "ü"]})
    assert json.loads(path.read_bytes()) == {"b": [1, 2.5, None, "ü"]}
    files.write_text(path, "zwölf\n")
    assert path.read_bytes() == "zwölf\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_others_may_read_it_as_the_umask_says(tmp_path):
    old = os.umask(0o022)
    try:
        files.write_text(tmp_path / "f", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o644


def test_numbers_that_json_lacks_become_strings_that_float_reads(tmp_path):
    files.write_json(tmp_path / "f", {"x": (math.nan, math.inf, [{"y": -math.inf}], 1.0)})
    result = json.loads((tmp_path / "f").read_text(), parse_constant=pytest.fail)
    assert result == {"x": ["NaN", "Infinity", [{"y": "-Infinity"}], 1.0]}
    assert float(result["x"][2][0]["y"]) == -math.inf


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_alone(tmp_path, monkeypatch, call):
    path = tmp_path / "f"
    files.write_text(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[call], fail)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_json_leaves_the_old_file_alone(tmp_path):
    files.write_text(tmp_path / "f", "old")
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "f", {"x": object()})
    assert (tmp_path / "f").read_text() == "old"


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    path = tmp_path / "f"
    code = (
        "import sys, pathlib; from trainer.job.files import write_json\n"
        "for i in range(10**9): write_json(pathlib.Path(sys.argv[1]), [i] * 20_000)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT)
    deadline = time.monotonic() + 240
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    for _ in range(20):
        values = json.loads(path.read_text())
        assert len(values) == 20_000
        assert len(set(values)) == 1
    writer.kill()
    writer.wait()
    assert len(json.loads(path.read_text())) == 20_000
