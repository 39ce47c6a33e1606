"""Whatever happens to a file of a checkpoint: it is named, and the checkpoint before is used."""

import json
import random
import shutil

import jax
import numpy as np
import pytest

from trainer.checkpoint import files as saved
from trainer.checkpoint.checksums import Damaged, of_json
from trainer.checkpoint.store import Best, Checkpoints

FLIPS = 400
KEEP = {"keep_last": 3, "keep_best": 0, "best": Best("accuracy", largest=True)}


def make_state(step):
    rng = np.random.default_rng(step)
    return {
        "weights": [rng.normal(size=(100, 64)).astype(np.float32), np.zeros(64, np.float32)],
        "velocities": [rng.normal(size=(100, 64)).astype(np.float32), np.ones(64, np.float32)],
        "step": np.array(step, np.int32),
    }


def same(a, b):
    return all(
        x.dtype == y.dtype and np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A folder with the checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("pristine")
    with Checkpoints(folder, **KEEP, warn=print) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step), {"note": step}, {"validation_accuracy": 1e-05})
    return folder


@pytest.fixture
def set_aside_after(pristine, tmp_path):
    """Restore after some damage to the newest checkpoint, which has to be set aside."""
    warnings = []
    folder = tmp_path / "checkpoints"
    shutil.copytree(pristine, folder)
    checkpoints = Checkpoints(folder, **KEEP, warn=warnings.append)

    def restore(damage, message="file "):
        for path in folder.glob("bad-*"):
            shutil.rmtree(path)
        shutil.rmtree(folder / "2", ignore_errors=True)
        shutil.copytree(pristine / "2", folder / "2")
        warnings.clear()
        damage(folder / "2")
        restored = checkpoints.restore(make_state(0))
        assert restored.step == 1, f"this went unnoticed: {message}"
        assert same(restored.state, make_state(1)), "a wrong state was restored"
        assert restored.record == {"note": 1, "step": 1, "validation_accuracy": 1e-05}
        (warning,) = warnings
        assert f"{folder / '2'} is damaged" in warning
        assert message in warning
        assert sorted(path.name for path in folder.iterdir()) == ["1", "bad-2.0"]

    with checkpoints:
        yield restore


def files_of(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


def test_every_flipped_bit_is_noticed_and_its_file_named(set_aside_after, pristine):
    rng = random.Random(0)
    files = [f for f in files_of(pristine / "2") if (pristine / "2" / f).stat().st_size]
    for number in range(FLIPS):
        name = files[number % len(files)]
        size = (pristine / "2" / name).stat().st_size
        turn, turns = number // len(files), -(-FLIPS // len(files))
        position = min(size - 1, (turn * size + rng.randrange(size)) // turns)  # every region
        bit = 1 << rng.randrange(8)

        def flip(folder, name=name, position=position, bit=bit):
            data = bytearray((folder / name).read_bytes())
            data[position] ^= bit
            (folder / name).write_bytes(data)

        set_aside_after(flip, f"file {name}")


def test_a_flip_that_leaves_the_meaning_of_the_record_is_noticed(pristine, tmp_path):
    """Such as of the case of the e in 1e-05."""
    folder = shutil.copytree(pristine / "2", tmp_path / "2")
    path = folder / saved.RECORD_FILE
    written = path.read_bytes()
    assert b"1e-05" in written
    assert saved.opened(folder, {}).record["note"] == 2
    for position in range(len(written)):
        data = bytearray(written)
        data[position] ^= ord("e") ^ ord("E")
        path.write_bytes(data)
        with pytest.raises(Damaged, match=saved.RECORD_FILE):
            saved.opened(folder, {})


def test_every_truncated_emptied_or_missing_file_is_noticed_and_named(set_aside_after, pristine):
    def cut(size):
        def damage(folder, name):
            data = (folder / name).read_bytes()
            (folder / name).write_bytes(data[: size(len(data))])

        return damage

    cuts = [
        cut(lambda size: 0),
        cut(lambda size: size // 2),
        cut(lambda size: max(0, size - 1)),
    ]
    for name in files_of(pristine / "2"):
        empty = not (pristine / "2" / name).stat().st_size
        for damage in [*([] if empty else cuts), lambda folder, name: (folder / name).unlink()]:
            set_aside_after(
                lambda folder, name=name, damage=damage: damage(folder, name), f"file {name}"
            )


@pytest.mark.parametrize("seed", range(5))
def test_a_half_deleted_folder_is_noticed(set_aside_after, pristine, seed):
    files = files_of(pristine / "2")
    random.Random(seed).shuffle(files)

    def delete(folder):
        for name in files[: len(files) // 2 + 1]:
            (folder / name).unlink()

    set_aside_after(delete)


def test_an_emptied_folder_is_noticed(set_aside_after):
    set_aside_after(lambda folder: [shutil.rmtree(folder), folder.mkdir()])


def test_other_arrays_than_those_saved_are_noticed_also_where_the_files_are_as_written(
    set_aside_after, tmp_path
):
    """As if a bit had flipped in memory, before the files got their digests."""
    with Checkpoints(tmp_path / "other", **KEEP, warn=print) as other:
        other.save(2, make_state(3), {"note": 2}, {"validation_accuracy": 1e-05})

    def swap(folder):
        sealed = json.loads((folder / saved.RECORD_FILE).read_text())
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "other" / "2", folder)
        there = json.loads((folder / saved.RECORD_FILE).read_text())
        sealed |= {"files": there["files"], "bytes": there["bytes"]}
        del sealed["sha256"]
        sealed["sha256"] = of_json(sealed)
        (folder / saved.RECORD_FILE).write_text(json.dumps(sealed))

    set_aside_after(swap, "contents do not match the checksum: array step and 2 more")
