"""Trials that take no time."""

import pytest
from support.trials import Trials


@pytest.fixture
def trials(monkeypatch, tmp_path):
    return Trials(monkeypatch, tmp_path / "sweep")
