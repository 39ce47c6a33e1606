"""An export of the small run, and a copy of it."""

import pytest
from support.exports import export
from support.trained_runs import copy, trained_once


@pytest.fixture(scope="session")
def smoke_export(smoke_run, tmp_path_factory):
    """An export of the small run: not to be changed."""
    return trained_once(tmp_path_factory, "smoke-export", lambda folder: export(smoke_run, folder))


@pytest.fixture
def exported(smoke_export, tmp_path):
    """A copy of it, to do harm to."""
    return copy(smoke_export, tmp_path / "digits")
