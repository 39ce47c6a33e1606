"""Whatever happens to the files of a checkpoint: it comes back bit for bit, or is set aside."""

import gc
import random
import shutil

import jax
import numpy as np
import pytest

from trainer.checkpoint import Checkpoints

FLIPS = 300

# Reading damaged files makes orbax leave coroutines that nobody awaits.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


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
    with Checkpoints(folder, keep_last=3, keep_best=0, warn=print) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step), {"note": step}, 0.5)
    return folder


@pytest.fixture
def restore_after(pristine, tmp_path):
    """Restore after some damage to the newest checkpoint: "intact", or "set aside"."""
    warnings = []
    folder = tmp_path / "checkpoints"
    shutil.copytree(pristine, folder)
    checkpoints = Checkpoints(folder, keep_last=3, keep_best=0, warn=warnings.append)

    def restore(damage):
        for path in folder.glob("bad-*"):
            shutil.rmtree(path)
        shutil.rmtree(folder / "2", ignore_errors=True)
        shutil.copytree(pristine / "2", folder / "2")
        warnings.clear()
        damage(folder / "2")
        restored = checkpoints.restore(make_state(0))
        assert same(restored.state, make_state(restored.step)), "a wrong state was restored"
        assert restored.record == {
            "note": restored.step,
            "step": restored.step,
            "test_accuracy": 0.5,
        }
        if restored.step == 2:
            assert not warnings
            return "intact"
        # The checkpoint without its commit file never counted as one: nothing to warn of.
        assert warnings or not (folder / "2" / "commit_success.txt").exists()
        return "set aside"

    with checkpoints:
        yield restore
    gc.collect()  # here, where the coroutines left behind are no news


def files_of(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


def test_no_flipped_bit_is_restored(restore_after, pristine):
    rng = random.Random(0)
    files = [f for f in files_of(pristine / "2") if (pristine / "2" / f).stat().st_size]
    outcomes = []
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

        outcomes.append(restore_after(flip))
    # Not every byte matters: some files and regions are never read back.
    assert set(outcomes) == {"intact", "set aside"}


def test_no_truncated_or_missing_file_is_restored_wrong(restore_after, pristine):
    def cut(size):
        def damage(folder, name):
            data = (folder / name).read_bytes()
            (folder / name).write_bytes(data[: size(len(data))])

        return damage

    damages = [
        cut(lambda size: 0),
        cut(lambda size: size // 2),
        cut(lambda size: max(0, size - 1)),
        lambda folder, name: (folder / name).unlink(),
    ]
    for name in files_of(pristine / "2"):
        for damage in damages:
            restore_after(lambda folder, name=name, damage=damage: damage(folder, name))


@pytest.mark.parametrize("seed", range(5))
def test_no_half_deleted_folder_is_restored_wrong(restore_after, pristine, seed):
    files = files_of(pristine / "2")
    random.Random(seed).shuffle(files)

    def delete(folder):
        for name in files[: len(files) // 2 + 1]:
            (folder / name).unlink()

    restore_after(delete)
