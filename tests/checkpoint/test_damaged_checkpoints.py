"""A damaged checkpoint is set aside; what the storage does not give is not called damaged."""

import errno
import os
import resource
from contextlib import contextmanager

import pytest
from support.checkpoints import assert_equal, make_state
from support.harm import flip_a_bit, largest_file

from trainer.job.errors import DataError, ReadError


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
        checkpoints.save(2, make_state(2), {})  # the step can be saved again
    assert checkpoints.steps == [1, 2]


def test_none_intact_is_an_error_and_nothing_is_lost(opened):
    with opened() as checkpoints:
        checkpoints.save(1, make_state(1), {})
    flip_a_bit(largest_file(opened.folder / "1"))
    for _ in range(2):  # a second start does not start over either
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
