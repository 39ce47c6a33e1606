"""One of the processes that save and restore a sharded state together, for its test."""

import ctypes
import gc
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import pytest
from support import harm, sharded

from trainer.checkpoint import shards
from trainer.checkpoint.shared import check_seen_by_all
from trainer.distributed import collectives
from trainer.job.errors import ConfigError, SaveError

KINDS = ("all", "optimizer", "2d", "none")


def main(root: Path, own: str, others: list[str]) -> None:
    """Save in a folder, restore what other layouts have saved, and let things go wrong."""
    rank, processes = jax.process_index(), jax.process_count()
    save(root / own, rank, processes)
    if rank == 0:
        (root / f"{own}.done").touch()
    reads_its_own_chunks_alone(root / own)
    for other in others:
        restore(root / other, root / f"{other} for {own}", rank)
    refuse_folders_that_are_not_shared(root / f"folders of {own}", rank)
    if processes == 4:
        needs_little_memory(root / "large")


def wait_for(path: Path) -> None:
    """Wait until another process has made a file."""
    deadline = time.monotonic() + 240
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def save(folder: Path, rank: int, processes: int) -> None:
    """Save steps 1 to 3; in between process 0 fails, and the last, which then comes too late."""
    last, full = processes - 1, []

    def flush() -> None:
        for error in full:
            raise error

    with sharded.opened(folder, "all", limit=2, flush=flush) as run:

        def fails(step: int, reason: str) -> None:
            with pytest.raises(SaveError, match="the last checkpoint is not written"):
                run.save(step)
            warning = run.warnings.pop()
            assert f": {reason}" in warning, warning
            assert not run.warnings
            assert not run.writer.failing()

        run.save(1)
        with harm.files_of_at_most(10 if rank == last else 10**9):
            fails(7, f"process {last}: [Errno 27] File too large")
        run.save(2)
        write, given_up = shards.write, folder.with_name(f"{folder.name}.given up")
        if rank == last:
            shards.write = lambda *arguments: wait_for(given_up) or write(*arguments)
        run.writer.checkpoints._timeout = 5
        fails(8, f"process {last}: no answer within 5 s")
        if rank == 0:
            given_up.touch()
        collectives.share(lambda: None)  # the next save would be late, too
        shards.write, run.writer.checkpoints._timeout = write, 60
        full.append(OSError("no room for the log"))
        fails(9, "no room for the log")
        full.clear()
        run.save(3)
        run.save(3)  # is there already: nobody waits
    collectives.share(lambda: None)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "3"]


def reads_its_own_chunks_alone(folder: Path) -> None:
    """Restore with the sharding that was saved."""
    read, seen = shards.read, []
    shards.read = lambda folder, chunk: seen.append(chunk) or read(folder, chunk)
    with sharded.opened(folder, "all") as run:
        run.restore(sharded.shardings("all"))
    shards.read = read
    kernels = [chunk for chunk in seen if chunk.place.leaf == "weights/0/kernel"]
    assert len(kernels) == jax.local_device_count()
    assert len(seen) == len({*seen})
    assert {chunk.file for chunk in kernels} == {f"process_{jax.process_index()}.bin"}


def restore(saved: Path, copy: Path, rank: int) -> None:
    """Restore the checkpoints of a folder in every way; the newest is damaged at last."""
    if rank == 0:
        wait_for(saved.with_name(f"{saved.name}.done"))
        shutil.copytree(saved, copy)
    with sharded.opened(copy, "all") as run:
        for kind in KINDS:
            target = sharded.shardings(kind)
            sharded.assert_restored(run.restore(target), target, 3)
        for step, damage in ((3, harm.flip_a_bit), (2, os.unlink)):
            collectives.share(lambda: None)
            if rank == 0:
                damage(copy / str(step) / "process_0.bin")
            sharded.assert_restored(run.restore(target), target, step - 1)
            assert rank or "is damaged (file process_0.bin " in run.warnings.pop()


def refuse_folders_that_are_not_shared(folder: Path, rank: int) -> None:
    """As if each host had a disk of its own."""
    own = folder / str(rank)
    if rank == 0:
        own.mkdir(parents=True)
    collectives.share(lambda: None)
    for _ in ("there is none", "there is another one"):
        with pytest.raises(ConfigError, match=r"host .* does not have .* of process 0"):
            check_seen_by_all(own, collectives.share)
        own.mkdir(exist_ok=True)
        collectives.share(lambda: None)
    assert not [*own.iterdir()]


def needs_little_memory(folder: Path) -> None:
    """Save and restore a large state: a process needs room for its own part, once."""
    with sharded.opened(folder, "all", make=sharded.large_state) as run:
        state = run.state(1)
        target = jax.tree.map(lambda leaf: leaf.sharding, state)
        own = sum(leaf.addressable_data(0).nbytes for leaf in jax.tree.leaves(state))
        with growth_of_at_most(1.2 * own):  # the copy of the state, with which training continues
            run.writer.save(1, state, {}, None)
            run.writer.finish()
        del state
        with growth_of_at_most(1.2 * own):
            run.restore(target)


@contextmanager
def growth_of_at_most(size: float) -> Iterator[None]:
    """Check by how much the resident memory of this process grows, in bytes, at its peak."""

    def resident(name: str) -> int:
        (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if name in x)
        return int(line.split()[1]) * 1024

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what it is now
    before = resident("VmRSS")
    yield
    growth = resident("VmHWM") - before
    assert growth <= size, f"{growth:,} bytes, at most {size:,}"
