"""A checkpoint comes back bit for bit, or not at all."""

import gc
import os

import jax
import numpy as np
import pytest

from trainer.checkpoint import Checkpoints, weights_sha256
from trainer.errors import DataError


def make_state(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "kernel": rng.normal(size=(300, 50)).astype(np.float32),
        "layers": [rng.normal(size=7).astype(np.float32), np.array(seed, np.int32)],
    }


@pytest.fixture
def opened(tmp_path):
    warnings = []

    def opener(keep_last=3, keep_best=0):
        return Checkpoints(
            tmp_path / "checkpoints", keep_last=keep_last, keep_best=keep_best, warn=warnings.append
        )

    opener.warnings, opener.folder = warnings, tmp_path / "checkpoints"
    yield opener
    gc.collect()  # here, where the coroutines that orbax left behind are no news


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert [x.dtype for x in jax.tree.leaves(a)] == [x.dtype for x in jax.tree.leaves(b)]


def test_nothing_saved_nothing_restored(opened):
    with opened() as checkpoints:
        assert checkpoints.restore(make_state()) is None


def test_the_newest_comes_back_with_its_record(opened):
    with opened() as checkpoints:
        for step in (5, 10):
            checkpoints.save(step, make_state(step), {"note": [0.1 + 0.2]}, accuracy=0.5)
    with opened() as checkpoints:
        restored = checkpoints.restore(make_state())
    assert restored.step == 10
    assert_equal(restored.state, make_state(10))
    assert restored.record == {"note": [0.1 + 0.2], "step": 10, "test_accuracy": 0.5}


def test_the_state_may_change_as_soon_as_save_returned(opened):
    state = make_state()
    with opened() as checkpoints:
        checkpoints.save(1, jax.tree.map(np.array, state), {})
        state["kernel"][:] = 0
        checkpoints.wait()
        assert_equal(checkpoints.restore(state).state, make_state())


def test_the_last_and_the_best_are_kept_also_after_a_restart(opened):
    with opened(keep_last=2, keep_best=1) as checkpoints:
        for step, accuracy in ((1, 0.7), (2, 0.9), (3, 0.8), (4, None), (5, 0.6)):
            checkpoints.save(step, make_state(step), {}, accuracy)
    assert checkpoints.steps == [2, 4, 5]
    with opened(keep_last=2, keep_best=1) as checkpoints:
        checkpoints.restore(make_state())
        checkpoints.save(6, make_state(6), {}, 0.5)
    assert checkpoints.steps == [2, 5, 6]


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


# Reading a truncated file makes orbax leave a coroutine that nobody awaits.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip_a_bit(largest_file(folder)),
        lambda folder: largest_file(folder).unlink(),
        lambda folder: os.truncate(largest_file(folder), 100),
        lambda folder: flip_a_bit(folder / "_CHECKPOINT_METADATA"),
        lambda folder: (folder / "_CHECKPOINT_METADATA").write_text("{}"),
        lambda folder: (folder / "_METADATA").write_text(""),
    ],
    ids=["flip", "missing", "truncated", "record flipped", "record emptied", "metadata emptied"],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(opened, damage):
    with opened() as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step), {})
    damage(opened.folder / "2")
    with opened() as checkpoints:
        restored = checkpoints.restore(make_state())
        assert restored.step == 1
        assert_equal(restored.state, make_state(1))
        (warning,) = opened.warnings
        assert str(opened.folder / "2") in warning
        assert "bad-2.0" in warning
        assert (opened.folder / "bad-2.0").is_dir()
        checkpoints.save(2, make_state(2), {})  # the step can be saved anew
    assert checkpoints.steps == [1, 2]


def test_a_folder_without_its_commit_file_is_no_checkpoint(opened):
    with opened() as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step), {})
    (opened.folder / "2" / "commit_success.txt").unlink()
    with opened() as checkpoints:
        assert checkpoints.restore(make_state()).step == 1


def test_none_intact_is_an_error_and_nothing_is_lost(opened):
    with opened() as checkpoints:
        checkpoints.save(1, make_state(1), {})
    flip_a_bit(largest_file(opened.folder / "1"))
    with opened() as checkpoints, pytest.raises(DataError, match="none of the checkpoints"):
        checkpoints.restore(make_state())
    assert (opened.folder / "bad-1.0").is_dir()


def test_another_shape_or_dtype_is_not_cast_silently(opened):
    with opened() as checkpoints:
        checkpoints.save(1, make_state(1), {})
        for kernel in (np.zeros((300, 50), np.float16), np.zeros((50, 300), np.float32)):
            with pytest.raises(Exception, match="kernel"):
                checkpoints.load(1, {**make_state(), "kernel": kernel})


def test_weights_sha256_sees_every_bit():
    state = make_state()
    before = weights_sha256(state)
    state["kernel"].view(np.uint8)[7, 7] ^= 1
    assert weights_sha256(state) != before
