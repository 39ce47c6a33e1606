"""A checkpoint comes back bit for bit, or not at all."""

import errno
import math
import os
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import ml_dtypes
import numpy as np
import pytest
from support.harm import files_of_at_most, flip_a_bit, largest_file

from trainer.checkpoint import checksums
from trainer.checkpoint.store import Best, Checkpoints
from trainer.job.errors import ConfigError, DataError, ReadError
from trainer.parallel.step import TrainState

BEST = Best("accuracy", largest=True)


def make_state(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "kernel": rng.normal(size=(300, 50)).astype(np.float32),
        "layers": [rng.normal(size=7).astype(np.float32), np.array(seed, np.int32)],
    }


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


def results(accuracy):
    return None if accuracy is None else {"validation_accuracy": accuracy}


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert [x.dtype for x in jax.tree.leaves(a)] == [x.dtype for x in jax.tree.leaves(b)]


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


def test_the_last_and_the_best_are_kept_also_after_a_restart(opened):
    with opened(keep_last=2, keep_best=1) as checkpoints:
        for step, accuracy in ((1, 0.7), (2, 0.9), (3, 0.8), (4, None), (5, 0.6)):
            checkpoints.save(step, make_state(step), {}, results(accuracy))
    assert checkpoints.steps == [2, 4, 5]
    with opened(keep_last=2, keep_best=1) as checkpoints:
        checkpoints.restore(make_state())
        checkpoints.save(6, make_state(6), {}, results(0.5))
    assert checkpoints.steps == [2, 5, 6]


@pytest.mark.parametrize(
    ("best", "kept"), [(Best("loss", False), [1, 5]), (Best("f1", True), [3, 5])]
)
def test_the_best_is_that_of_its_metric_and_direction(opened, best, kept):
    results = [(0.1, 0.2), (0.2, math.nan), (0.3, 0.9), (math.nan, 0.5), (0.5, 0.3)]
    with opened(keep_last=1, keep_best=1, best=best) as checkpoints:
        for step, (loss, f1) in enumerate(results[:4], 1):
            checkpoints.save(
                step, make_state(step), {}, {"validation_loss": loss, "validation_f1": f1}
            )
    with opened(keep_last=1, keep_best=1, best=best) as checkpoints:  # from the records
        checkpoints.restore(make_state())
        loss, f1 = results[4]
        checkpoints.save(5, make_state(5), {}, {"validation_loss": loss, "validation_f1": f1})
    assert checkpoints.steps == kept


def test_all_of_the_best_are_kept_while_few_are_known(opened):
    with opened(keep_last=1, keep_best=3) as checkpoints:
        for step, accuracy in ((1, 0.7), (2, 0.9), (3, None), (4, None)):
            checkpoints.save(step, make_state(step), {}, results(accuracy))
    assert checkpoints.steps == [1, 2, 4]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip_a_bit(largest_file(folder)),
        lambda folder: largest_file(folder).unlink(),
        lambda folder: os.truncate(largest_file(folder), 100),
        lambda folder: flip_a_bit(folder / "record.json"),
        lambda folder: (folder / "record.json").write_text("{}"),
        lambda folder: (folder / "record.json").unlink(),
        lambda folder: (folder / "_METADATA").write_text(""),
    ],
    ids=[
        "flip",
        "missing",
        "truncated",
        "record flipped",
        "record emptied",
        "record missing",
        "metadata emptied",
    ],
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


SAVES = """
import itertools, pathlib, sys
import numpy as np
from trainer.checkpoint.store import Best, Checkpoints

folder, best = pathlib.Path(sys.argv[1]), Best("loss", largest=False)
with Checkpoints(folder, keep_last=2, keep_best=0, best=best, warn=print) as checkpoints:
    for step in itertools.count(max(checkpoints.steps, default=0) + 1):
        checkpoints.save(step, {"x": np.full(1000, step)}, {})
"""


def test_what_killed_saves_leave_is_no_checkpoint_and_is_removed(opened):
    template = {"x": np.zeros(1000, int)}
    for _ in range(2):
        before = max((int(p.name) for p in opened.folder.glob("[0-9]*")), default=0)
        process = subprocess.Popen([sys.executable, "-c", SAVES, str(opened.folder)])
        deadline = time.monotonic() + 240
        while not any(opened.folder.glob(f"saving-{before + 3}*")):  # about half of it written
            assert process.poll() is None
            assert time.monotonic() < deadline
        process.kill()
        process.wait()
    assert list(opened.folder.glob("saving-*"))
    with opened() as checkpoints:
        restored = checkpoints.restore(template)
        assert restored.state["x"][0] == restored.step == checkpoints.steps[-1] >= 4
    assert not opened.warnings
    assert all(path.name.isdecimal() for path in opened.folder.iterdir())


def test_a_checkpoint_is_on_disk_before_it_counts_and_before_an_older_one_goes(opened, monkeypatch):
    output = []

    def observe(name, describe):
        real = getattr(os, name)

        def call(*arguments, **options):
            output.append((name, *describe(*arguments)))
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, call)

    def within(path):
        return os.path.relpath(path, opened.folder)

    with opened(keep_last=1) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        observe("fsync", lambda number: [within(Path(f"/proc/self/fd/{number}").readlink())])
        observe("rename", lambda old, new: [within(old), within(new)])
        observe("rmdir", lambda path, **_: [str(path)])
        observe("unlink", lambda path, **_: [str(path)])
        checkpoints.save(2, make_state(2), {})
    committed = output.index(("rename", "saving-2", "2"))
    new = opened.folder / "2"
    names = [".", *(str(path.relative_to(new)) for path in new.rglob("*"))]
    assert len(names) > 10
    for name in names:
        assert ("fsync", os.path.normpath(f"saving-2/{name}")) in output[:committed]
    assert output[committed + 1 : committed + 4] == [
        ("fsync", "."),
        ("rename", "1", "trash-1"),
        ("fsync", "."),
    ]
    assert {event[0] for event in output[committed + 4 :]} == {"unlink", "rmdir"}
    assert not {"unlink", "rmdir"} & {event[0] for event in output[:committed]}


def test_a_step_that_has_a_checkpoint_is_not_saved_again(opened):
    with opened() as checkpoints:
        checkpoints.save(1, make_state(1), {}, results(0.9))
        checkpoints.save(1, make_state(1), {}, None)
    with opened() as checkpoints:
        assert checkpoints.restore(make_state()).record["validation_accuracy"] == 0.9


def test_a_save_that_fails_leaves_nothing_and_the_next_succeeds(opened):
    with opened() as checkpoints:
        checkpoints.save(1, make_state(1), {})
        big = {"x": np.random.default_rng(0).normal(size=1_000_000)}
        with files_of_at_most(1_000_000), pytest.raises(ValueError, match="File too large"):
            checkpoints.save(2, big, {})
        assert [path.name for path in opened.folder.iterdir()] == ["1"]
        checkpoints.save(2, make_state(2), {})
        assert_equal(checkpoints.restore(make_state()).state, make_state(2))


def test_none_intact_is_an_error_and_nothing_is_lost(opened):
    with opened() as checkpoints:
        checkpoints.save(1, make_state(1), {})
    flip_a_bit(largest_file(opened.folder / "1"))
    for _ in range(2):  # a second start does not begin anew either
        with opened() as checkpoints, pytest.raises(DataError, match="none of the checkpoints"):
            checkpoints.restore(make_state())
        assert [path.name for path in opened.folder.iterdir()] == ["bad-1.0"]


@contextmanager
def no_more_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def unreadable(path):
    """Make reading the beginning of a file an input/output error."""
    aside = path.rename(path.with_name("aside"))
    path.symlink_to("/proc/self/mem")
    try:
        yield
    finally:
        aside.replace(path)


@contextmanager
def forbidden(path):
    if os.geteuid():
        path.chmod(0)
    else:  # who may read everything
        for parent in (path, *path.parents[:-2]):
            parent.chmod(0o755)
        path.chmod(0)
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(os.getuid())
        path.chmod(0o644)


@pytest.mark.parametrize(
    ("refuse", "number"),
    [
        (lambda folder: no_more_files(), errno.EMFILE),
        (lambda folder: unreadable(folder / "2" / "record.json"), errno.EIO),
        (lambda folder: unreadable(largest_file(folder / "2")), errno.EIO),
        (lambda folder: forbidden(folder / "2" / "manifest.ocdbt"), errno.EACCES),
    ],
    ids=["too many files", "record unreadable", "data unreadable", "forbidden"],
)
def test_what_the_storage_does_not_give_is_not_called_damaged(opened, refuse, number):
    with opened() as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step), {})
        with refuse(opened.folder), pytest.raises(ReadError) as raised:
            checkpoints.restore(make_state())
        assert str(opened.folder) in str(raised.value)
        assert os.strerror(number) in str(raised.value)
        assert raised.value.exit_code == 74
        assert checkpoints.steps == [1, 2]
        assert checkpoints.restore(make_state()).step == 2
    assert not opened.warnings


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
