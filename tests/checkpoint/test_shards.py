"""A sharded state comes back bit for bit, on other devices too, or not at all."""

import json
import os
import random
import re
import shutil

import pytest
from support import mutations
from support.sharded import RECORD, assert_restored, make_state, opened, shardings

from trainer.checkpoint import files, shards
from trainer.checkpoint.store import Best, Checkpoints
from trainer.job import lock
from trainer.job.errors import ConfigError
from trainer.job.files import Damaged
from trainer.parallel.mesh import spread
from trainer.tasks.task import named_leaves

LAYOUTS = [("all", 8), ("all", 4), ("optimizer", 4), ("2d", 8), ("all", 2), ("none", 4)]
FLIPS = 225
PROCESSES = 4


@pytest.mark.parametrize(("kind", "devices"), LAYOUTS)
def test_any_layout_is_restored_onto_any_other(tmp_path, kind, devices):
    with opened(tmp_path, kind, devices) as run:
        run.save(5)
        for other in [*LAYOUTS, ("none", 1)]:
            target = shardings(*other)
            assert_restored(run.restore(target), target, 5)
    assert (tmp_path / "5" / "process_0.bin").exists() == (kind != "none")
    with files.checkpointer() as reader:
        arrays, record = files.read(reader, tmp_path / "5", {})
    saved = named_leaves(make_state(5))
    assert {name: a.tobytes() for name, a in arrays.items()} == {
        name: a.tobytes() for name, a in saved.items()
    }
    assert (record["step"], record["note"]) == (5, RECORD["note"])
    assert not run.warnings


def test_every_array_is_written_once_and_what_is_replicated_is_shared_out():
    state = spread(shardings("optimizer", 4), make_state(1))
    leaves = [[place.leaf for place in chunks] for chunks in shards.own(state).values()]
    weights = [[leaf for leaf in each if leaf.startswith("weights")] for each in leaves]
    assert weights == [["weights/0/kernel"], ["weights/1/kernel"], ["weights/2/bias"], []]
    assert [each.count("optim_state/0/kernel") for each in leaves] == [1, 1, 1, 1]


def save_as_processes(folder, *steps, keep_last=9):
    """Save as if each device was that of a process of its own."""
    keep = {"keep_last": keep_last, "keep_best": 0, "best": Best("accuracy", largest=True)}
    with Checkpoints(folder, **keep, warn=pytest.fail) as checkpoints:
        for step in steps:
            state = spread(shardings("all", PROCESSES), make_state(step))
            written = checkpoints.begin_shards(step)
            own = shards.own(state).values()
            digests = [shards.write(written, rank, chunks) for rank, chunks in enumerate(own)]
            checkpoints.commit(written, step, RECORD, None, tables=digests)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """Checkpoints 1 and 2 of four processes."""
    folder = tmp_path_factory.mktemp("pristine")
    save_as_processes(folder, 1, 2)
    return folder


def names_of(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def refused(pristine, tmp_path):
    """Check that a damaged checkpoint 2 is not used, and that what is wrong is named."""
    shutil.copytree(pristine, tmp_path / "run")
    with opened(tmp_path / "run", "none", 1) as run, files.checkpointer() as reader:
        folder, target = tmp_path / "run" / "2", shardings("all", 2)

        def check(damage, name):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(pristine / "2", folder)
            damage(folder / name)
            for use in (files.read, files.check):
                with pytest.raises(Damaged, match=f"file {re.escape(name)} "):
                    use(reader, folder, {})
            assert_restored(run.restore(target), target, 1)
            (warning,) = run.warnings
            assert f"{folder} is damaged (file {name} " in warning
            assert names_of(folder.parent) == ["1", "bad-2.0"]
            shutil.rmtree(folder.parent / "bad-2.0")
            run.warnings.clear()

        yield check


def flip(position, bit):
    def damage(path):
        data = bytearray(path.read_bytes())
        data[position] ^= 1 << bit
        path.write_bytes(data)

    return damage


def test_every_flipped_bit_is_noticed_and_its_file_named(refused, pristine):
    rng, names = random.Random(0), names_of(pristine / "2")
    assert len(names) == 2 * PROCESSES + 1
    for number in range(FLIPS):
        name, turn = names[number % len(names)], number // len(names)
        size, turns = (pristine / "2" / name).stat().st_size, -(-FLIPS // len(names))
        position = min(size - 1, (turn * size + rng.randrange(size)) // turns)  # every region
        refused(flip(position, rng.randrange(8)), name)


CHANGES = (
    lambda data: b"",
    lambda data: data[: len(data) // 2],
    lambda data: data[:-1],
    lambda data: data + b"\0",
)


def test_every_cut_grown_missing_or_replaced_file_is_noticed_and_named(refused, pristine):
    def resize(change):
        def damage(path):
            data = path.read_bytes()
            path.write_bytes(change(data))

        return damage

    for name in names_of(pristine / "2"):
        for change in CHANGES:
            refused(resize(change), name)
        refused(lambda path: path.unlink(), name)
        for kind, put in mutations.INSTEAD.items():
            if kind != "a link to itself":  # an error of the file system, not damage
                refused(lambda path, put=put: (path.unlink(), put(path)), name)


def test_a_chunk_is_named(pristine, tmp_path):
    folder = shutil.copytree(pristine / "2", tmp_path / "2")
    flip(0, 0)(folder / "process_3.bin")
    message = r"file process_3.bin .*: the chunk of array \S+ at \[18, 0\]"
    with pytest.raises(Damaged, match=message):
        files.check(None, folder, {})


@pytest.mark.parametrize("processes", [0, 3, 5, 2**31 - 1])
def test_a_record_of_another_number_of_processes_is_damaged(pristine, tmp_path, processes):
    folder = shutil.copytree(pristine / "2", tmp_path / "2")
    record = json.loads((folder / "record.json").read_text())
    sealed = mutations.sealed({**record, "processes": processes})
    (folder / "record.json").write_text(json.dumps(sealed))
    with pytest.raises(Damaged, match=r"record\.json lists other files"):
        files.check(None, folder, {})


def test_whenever_a_process_is_killed_a_whole_checkpoint_is_left(tmp_path, monkeypatch):
    """A copy of the folder, made before each call that changes it, is what a kill then leaves."""
    folder, copies, calls = tmp_path / "run", [], []
    save_as_processes(folder, 1, keep_last=1)

    def observe(name):
        real = getattr(os, name)

        def call(*arguments, **options):
            if not calls:  # else it is one of copytree's own
                calls.append(name)
                copies.append(shutil.copytree(folder, tmp_path / f"{len(copies)} {name}"))
                calls.clear()
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, call)

    for name in ("mkdir", "fsync", "rename", "replace", "unlink", "rmdir"):
        observe(name)
    save_as_processes(folder, 2, keep_last=1)
    monkeypatch.undo()
    newest = []
    for copy in copies:
        with opened(copy, "none", 1) as run:
            target = shardings("all", 2)
            restored = run.restore(target)
            newest.append(restored.step)
            assert_restored(restored, target, newest[-1])
            assert names_of(copy) == [str(newest[-1])] or names_of(copy) == ["1", "2"]
        assert not run.warnings
    assert newest == sorted(newest)
    assert newest.count(1) > 5 * PROCESSES
    assert newest.count(2) > 2 * PROCESSES


def test_a_lock_that_was_removed_ends_the_saves(tmp_path):
    with lock.hold(tmp_path), opened(tmp_path / "checkpoints", "all", 4, limit=5) as run:
        run.save(1)
        (tmp_path / lock.NAME).unlink()
        with pytest.raises(ConfigError, match="was removed or replaced while this job ran"):
            run.save(2)
        assert run.writer.failing()
    assert names_of(tmp_path / "checkpoints") == ["1"]
