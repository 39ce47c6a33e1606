"""Files larger than memory: what is read is right, little of it stays, its digest is kept."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from support.in_process import StopAfter, summary_of, train

from trainer.config.compose import compose
from trainer.data import dataset, digests
from trainer.data.report import Report
from trainer.data.rows import Concatenated, Converted, Mapped, Rows, gather, parts
from trainer.data.stream import Plan, Superbatches, iterate
from trainer.formats import idx
from trainer.job.errors import DataError
from trainer.sources.load import load
from trainer.tasks import mlp

MIB = 2**20


def array_in(path, rows=1000, order="C"):
    array = np.arange(rows * 12, dtype=">f4").reshape(rows, 3, 4)
    np.save(path, np.asarray(array, order=order))
    return array, Mapped(np.load(path, mmap_mode="r"))


@pytest.mark.parametrize("order", ["C", "F"])
def test_views_of_a_file_are_like_its_array(tmp_path, order):
    array, view = array_in(tmp_path / "a.npy", order=order)
    some = np.arange(999, 0, -2)
    views = {
        "a file": (view, array),
        "rows of it": (Rows(view, some), array[some]),
        "another dtype": (Converted(view, np.float32), array.astype(np.float32)),
        "two": (
            Concatenated([Rows(view, some), view]),
            np.concatenate([array[some], array]).astype(">f4"),
        ),
    }
    for name, (one, wanted) in views.items():
        assert (one.shape, one.ndim, one.dtype) == (wanted.shape, 3, wanted.dtype), name
        assert (len(one), one.nbytes) == (len(wanted), wanted.nbytes)
        indices = np.array([[5, 0], [len(wanted) - 1, 7]])
        np.testing.assert_array_equal(gather(one, indices), wanted[indices])
        for index in (slice(3, 9), slice(-4, None), -1, [2, 5], np.arange(len(wanted)) == 8):
            np.testing.assert_array_equal(one[index], wanted[index])
        np.testing.assert_array_equal(np.asarray(one), wanted)
        np.testing.assert_array_equal(np.concatenate(list(parts(one))), wanted)


def anonymous():
    """Return the bytes of this process that the kernel cannot drop, unlike those of files."""
    (line,) = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) << 10


def test_a_large_file_takes_little_memory(tmp_path, everything_is_large):
    data = tmp_path / "data"
    data.mkdir()
    for split, count in (("train", 200_000), ("test", 100)):
        np.save(data / f"{split}_label.npy", np.arange(count, dtype=np.uint8) % 10)
        with (data / f"{split}_image.npy").open("wb") as file:  # zeros take no room on the disk
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, 1000)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + count * 1000)
    (job,) = compose(["data=arrays", f"data.root={data}", f"data.cache_dir={tmp_path}"])
    before, most = anonymous(), 0
    loaded = load(job.config.data, Report(print, print, print))
    mlp.pixel_statistics("zeros", loaded.train["image"], None, 1.0)
    source = Superbatches(
        loaded.train,
        plan=Plan(703, 1, 703),
        global_batch_size=256,
        rows=slice(0, 256),
        seed=0,
        first_step=0,
    )
    for number, batch in enumerate(iterate(source)):
        assert not batch.examples["image"].any()
        if number % 50 == 0:
            most = max(most, anonymous() - before)
    assert most < 100 * MIB  # the file has 200


@pytest.fixture
def everything_is_large(monkeypatch):
    for module in (digests, idx):
        monkeypatch.setattr(module, "LARGE", 0)
    monkeypatch.setattr("trainer.sources.load.LARGE", 0)


def test_the_digest_of_a_large_file_is_kept_until_it_changes(
    tmp_path, monkeypatch, everything_is_large
):
    _, view = array_in(tmp_path / "a.npy")
    examples, cache = {"x": view}, str(tmp_path / "cache")
    data = dataset.Dataset("large", examples, examples)
    first = digests.sha256(data, cache)
    assert first == digests.sha256(data)
    with monkeypatch.context() as m:
        m.setattr(digests, "parts", lambda _: pytest.fail("was computed again"))
        assert digests.sha256(data, cache) == first
    status = (tmp_path / "a.npy").stat()
    with (tmp_path / "a.npy").open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"x")
    os.utime(tmp_path / "a.npy", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    changed = digests.sha256(data, cache)
    assert changed == digests.sha256(data) != first


def test_a_large_idx_file_is_read_as_a_small_one(tmp_path, everything_is_large):
    array = np.arange(600, dtype=np.int16).reshape(100, 3, 2) - 300
    path = tmp_path / "large"
    path.write_bytes(idx.header(array.shape, array.dtype) + array.astype(">i2").tobytes())
    view = idx.load(path)
    np.testing.assert_array_equal(view[:], array)
    assert view.dtype == array.dtype
    assert idx.sha256(view) == idx.sha256(array)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"1,199 bytes of elements, but the header declares 100 x"):
        idx.load(path)


def test_a_file_that_is_cut_short_during_training_is_named(tmp_path, everything_is_large):
    data, draw = tmp_path / "data", np.random.default_rng(0)
    data.mkdir()
    for split, count in (("train", 4000), ("test", 100)):
        np.save(data / f"{split}_image.npy", draw.integers(0, 256, (count, 6, 6), np.uint8))
        np.save(data / f"{split}_label.npy", np.arange(count) % 10)

    class CutAfter(StopAfter):
        def __call__(self):
            self._left -= 1
            if self._left == 0:
                os.truncate(data / "train_image.npy", 1000)
            return False

    words = ("data=arrays", f"data.root={data}", "run.dir=run", "train.epochs=50")
    words += ("model.hidden_sizes=[8]", "train.steps_per_dispatch=8", "train.eval_every_epochs=9")
    done = train(tmp_path, *words, stop=CutAfter(6))
    assert done.returncode == 65, done.stderr
    assert "train_image.npy: has 1,000 bytes, and had more when it was opened" in done.stderr
    assert summary_of(tmp_path)["status"] == "failed"
