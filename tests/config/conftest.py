"""Files of a user, in a folder of their own."""

import textwrap

import pytest


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file into the current folder; return its name."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="mine.py"):
        (tmp_path / name).write_text(textwrap.dedent(text))
        return name

    return write
