"""The environment of a user who submits, with files of their own."""

import sys

import pytest


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("TRAINER_VENV", sys.prefix)
    monkeypatch.delenv("JAX_PLATFORMS")  # of these tests; it would forbid the GPUs


@pytest.fixture
def own_files(tmp_path, monkeypatch):
    """A folder `conf` with the experiment `first`, as --config-dir names it, and a model."""
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults: [override /model: module]\nmodel: {module: model.py}\n"
    (tmp_path / "conf" / "experiment" / "first.yaml").write_text(text)
    (tmp_path / "model.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINER_CONFIG_DIR", str(tmp_path / "conf"))
    return tmp_path
