"""One process of several: saves and restores checkpoints of a sharded state, for its test.

Arguments: the folder of all layouts, the own layout, the others. An AssertionError ends it.
"""

import os
import sys
import time
from pathlib import Path

import jax
from support.connected import connected
from support.harm import files_of_at_most
from support.sharded import assert_restored, opened, shardings

from trainer.checkpoint import shards
from trainer.distributed import collectives
from trainer.job.errors import ConfigError, SaveError
from trainer.train.shared import check_seen_by_all


def wait_for(path: Path) -> None:
    """Wait until another process has made a file or folder."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def main(root: Path, own: str, others: list[str]) -> None:
    """Save; restore what the others have saved; let saves fail."""
    ...


main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
