"""Checkpoints in the folder of a test, opened as often as it wants."""

import pytest
from support.checkpoints import BEST

from trainer.checkpoint.store import Checkpoints


@pytest.fixture
def opened(tmp_path):
    warnings = []

    def opener(keep_last=3, keep_best=0, best=BEST):
        return Checkpoints(
            tmp_path / "checkpoints",
            keep_last=keep_last,
            keep_best=keep_best,
            best=best,
            warn=warnings.append,
        )

    opener.warnings, opener.folder = warnings, tmp_path / "checkpoints"
    return opener
