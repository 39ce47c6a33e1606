"""Programs that the test processes themselves compile are kept for the next run of the tests.

It then takes half as long. jax finds each by a digest of the program, its options and the version
of XLA. What other processes compile is not kept: a test may kill one while it writes.
"""

import shutil
from contextlib import suppress
from pathlib import Path

import jax
from support.program import CACHE

FOLDER = Path(__file__).parents[2] / ".cache" / "xla"
LARGEST = 2 << 30  # bytes of what is kept
HERE = CACHE / "here"  # TRAINER_CACHE_DIR of runs in the test process

FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
HERE.mkdir(exist_ok=True)
with suppress(FileExistsError):  # of another worker
    (HERE / "xla").symlink_to(FOLDER)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
# Else the name of the folder would be part of the digest.
jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def keep() -> None:
    """Let jax keep what this process compiles; a run in it may have named another folder."""
    jax.config.update("jax_compilation_cache_dir", str(FOLDER))


def make_room() -> None:
    """Begin again if there are too many programs; most are of code that has changed since."""
    if sum(path.stat().st_size for path in FOLDER.glob("*")) > LARGEST:
        shutil.rmtree(FOLDER)
