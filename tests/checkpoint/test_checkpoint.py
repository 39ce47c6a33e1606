"""A checkpoint comes back bit for bit, whatever arrays it has; a link leads to those of one run."""

from typing import NamedTuple

import jax
import ml_dtypes
import numpy as np
import pytest
from support.checkpoints import assert_equal, make_state, results
from support.harm import largest_file

from trainer.checkpoint import checksums
from trainer.checkpoint.store import Best, Checkpoints
from trainer.job.errors import ConfigError, DataError
from trainer.parallel.step import TrainState


def test_nothing_saved_nothing_restored(opened):
    with opened() as checkpoints:
        assert checkpoints.restore(make_state()) is None


def test_the_newest_comes_back_with_its_record(opened):
    with opened() as checkpoints:
        for step in (5, 10):
            checkpoints.save(
                step, make_state(step), {"note": [0.1 + 0.2]}, {"validation_accuracy": 0.5}
            )
    with opened() as checkpoints:
        restored = checkpoints.restore(make_state())
    assert restored.step == 10
    assert_equal(restored.state, make_state(10))
    assert restored.record == {"note": [0.1 + 0.2], "step": 10, "validation_accuracy": 0.5}


class Layer(NamedTuple):
    kernel: np.ndarray
    scale: np.ndarray


TREES = {
    "one array": np.ones((2, 3), np.float32),
    "many kinds": {
        "layers": [
            Layer(np.ones((2, 3), np.float16), np.float32(3)),
            (np.zeros(4, np.float32), {}),
        ],
        "half": np.array([0.1, -3e38], ml_dtypes.bfloat16),
        "a.b [c]": {"d/e": np.arange(3, dtype=np.int32), "f": {7: np.array(True)}},
    },
}


@pytest.mark.parametrize("kind", TREES)
def test_any_tree_of_arrays_of_any_dtype_comes_back(opened, kind):
    state = TrainState(TREES[kind], {"mu": TREES[kind], "count": np.int32(3)}, np.int32(5))
    state = jax.tree.map(np.asarray, state)
    with opened() as checkpoints:
        checkpoints.save(5, state, {})
        restored = checkpoints.restore(jax.eval_shape(lambda: state)).state
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        assert after.tobytes() == before.tobytes()
    assert not opened.warnings


def test_the_state_may_change_as_soon_as_save_returned(opened):
    state = make_state()
    with opened() as checkpoints:
        checkpoints.save(1, jax.tree.map(np.array, state), {})
        state["kernel"][:] = 0
        assert_equal(checkpoints.restore(state).state, make_state())


def test_nothing_is_compressed(opened):
    state = {"zeros": np.zeros((300, 1000), np.float32)}
    with opened() as checkpoints:
        checkpoints.save(1, state, {})
    assert largest_file(opened.folder / "1").stat().st_size >= state["zeros"].nbytes


def test_a_step_that_has_a_checkpoint_is_not_saved_again(opened):
    with opened() as checkpoints:
        checkpoints.save(1, make_state(1), {}, results(0.9))
        checkpoints.save(1, make_state(1), {}, None)
    with opened() as checkpoints:
        assert checkpoints.restore(make_state()).record["validation_accuracy"] == 0.9


def test_another_shape_or_dtype_is_not_cast_silently(opened):
    with opened() as checkpoints:
        half, turned = np.zeros((300, 50), np.float16), np.zeros((50, 300), np.float32)
        for kernel, needed in ((half, "float16[300, 50]"), (turned, "float32[50, 300]")):
            checkpoints.save(1, make_state(1), {})
            with pytest.raises(DataError):
                checkpoints.restore({**make_state(), "kernel": kernel})
            message = f"array kernel is float32[300, 50], but {needed} is needed"
            assert message in opened.warnings.pop()


def test_weights_sha256_sees_every_bit():
    state = make_state()
    before = checksums.of_weights(state)
    state["kernel"].view(np.uint8)[7, 7] ^= 1
    assert checksums.of_weights(state) != before


def test_a_link_leads_to_the_checkpoints_of_one_run(tmp_path, opener_of):
    other_disk = tmp_path / "disk"
    other_disk.mkdir()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoints").symlink_to(other_disk)
    with opener_of(tmp_path / "a"):
        pass
    with opener_of(tmp_path / "a"):  # the run itself may come again
        pass
    with pytest.raises(
        ConfigError, match=r"a link to the checkpoints of another run, .*/a: remove"
    ):
        opener_of(tmp_path / "b")


def test_a_link_to_nowhere(tmp_path, opener_of):
    (tmp_path / "checkpoints").symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"is a link to .*/gone, which does not exist: make that"):
        opener_of(tmp_path)


@pytest.fixture
def opener_of():
    def opened(run):
        best = Best("accuracy", largest=True)
        folder = run / "checkpoints"
        return Checkpoints(folder, keep_last=1, keep_best=0, best=best, warn=pytest.fail)

    return opened
