"""Folders of pictures, and data sets of the package datasets: their arrays, and wrong uses."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support import data_folders
from support.data_folders import CLASS_LABEL, NAMES, examples, png

from trainer.config.compose import compose
from trainer.job.errors import ConfigError, DataError, UnavailableError
from trainer.sources.load import load


@pytest.fixture
def loaded(tmp_path):
    """Load tmp_path/data; loaded.warnings has the warnings, loaded.progress the last progress."""
    loaded_warnings, reports = [], []

    def loaded(*options, root=tmp_path / "data"):
        job = [f"data.root={root}", *options, f"data.cache_dir={tmp_path}/cache"]
        (made,) = compose([*job, "data.validation_fraction=0"])
        return load(
            made.config.data,
            progress=lambda *report: reports.append(report),
            poll=lambda: None,
            warn=loaded_warnings.append,
        )

    loaded.warnings, loaded.reports = loaded_warnings, reports
    return loaded


def test_each_split_has_the_pictures_of_its_folder(loaded, tmp_path):
    folder = data_folders.pictures(tmp_path / "data", 20, ("train", "val", "test"))
    (folder / "train" / "bag" / "notes.txt").write_text("no picture")
    (folder / "train" / "bag" / ".hidden.png").write_text("no picture")
    data = loaded("data=images")
    assert data.class_names == tuple(NAMES)
    for seed, split in enumerate(("train", "validation", "test")):
        images, labels = examples(20, seed=seed)
        order = np.argsort(labels, kind="stable")  # by class, then by name
        np.testing.assert_array_equal(data.splits[split]["image"], images[order])
        np.testing.assert_array_equal(data.splits[split]["label"], labels[order])
    assert loaded.warnings == [
        f"{folder}/train/bag/notes.txt: neither PNG nor JPEG by name, and left out"
    ]
    label, done, total = loaded.reports[-1]
    assert (label, done) == ("decoding data=images", total)
    again = loaded("data=images")
    assert again.sha256 == data.sha256
    assert loaded.reports[-1] == (label, done, total)
    assert len([report for report in loaded.reports if report[1] == total]) == 1  # decoded once


def test_a_folder_without_pictures_is_no_class_and_is_named(loaded, tmp_path):
    folder = data_folders.pictures(tmp_path / "data", 20, ("train", "test"))
    (folder / "train" / "emu").mkdir()
    (folder / "train" / "emu" / "1.bmp").write_bytes(b"")
    assert loaded("data=images").class_names == tuple(NAMES)
    assert any("in the folder emu: it is no class" in text for text in loaded.warnings)


def test_new_names_of_classes_are_read_again(loaded, tmp_path):
    folder = data_folders.huggingface(tmp_path / "data", 20)
    assert loaded("data=huggingface").class_names == tuple(NAMES)
    for info in folder.glob("*/dataset_info.json"):
        info.write_text(info.read_text().replace(NAMES[0], "renamed"))
    assert loaded("data=huggingface").class_names == ("renamed", *NAMES[1:])


def test_without_a_test_split_a_fraction_of_each_class_is_held_out(loaded, tmp_path):
    folder = data_folders.pictures(tmp_path / "data", 50, splits=())
    data = loaded("data=images", "data.test_fraction=0.3")
    for split, count in (("train", 7), ("test", 3)):
        assert np.bincount(data.splits[split]["label"]).tolist() == [count] * 5
    both = {one.tobytes() for split in data.splits.values() for one in split["image"][:]}
    assert len(both) == 50
    folder.rename(tmp_path / "moved")
    moved = loaded("data=images", "data.test_fraction=0.3", root=tmp_path / "moved")
    assert moved.sha256 == data.sha256


def test_pictures_of_many_sizes_and_modes_become_one(loaded, tmp_path):
    folder = data_folders.pictures(tmp_path / "data", 20)
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255  # the middle, which is kept
    (folder / "train" / "bag" / "000.png").write_bytes(png(wide))
    Image.fromarray(wide).save(folder / "train" / "bag" / "001.jpeg", quality=95)
    Image.fromarray(wide[..., 0]).save(folder / "train" / "bag" / "002.png")
    data = loaded("data=images", "data.image_size=[5,5]", "data.channels=1")
    assert data.train["image"].shape == (22, 5, 5)
    assert (data.train["image"][:3][..., 1:4] > 250).all()


def test_columns_of_numbers_and_lists_are_taken_as_they_are(loaded, tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    draw = np.random.default_rng(0)
    grid = draw.integers(0, 256, (30, 3, 2), np.uint8)
    vectors = draw.normal(size=(30, 4)).astype(np.float32)
    columns = {
        "grid": pa.array(grid.tolist(), pa.list_(pa.list_(pa.uint8()))),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4),
        "on": pa.array([i % 3 == 0 for i in range(30)]),
        "labels": pa.array(np.arange(30) % 5),
        "name": pa.array(["a"] * 30),
    }
    features = {name: {"_type": "Value"} for name in columns} | {"labels": CLASS_LABEL}
    data_folders.saved(tmp_path / "data", {"train": columns, "extra": columns}, features)
    options = ["data.columns=[grid,vector,on,labels]", "data.test_fraction=0.2"]
    data = loaded("data=huggingface", *options)
    assert data.class_names == tuple(NAMES)
    assert [len(split["label"]) for split in data.splits.values()] == [24, 6]
    order = np.concatenate(
        [
            np.flatnonzero(np.isin(vectors[:, 0], split["vector"][:][:, 0]))
            for split in data.splits.values()
        ]
    )
    assert sorted(order) == list(range(30))
    for name, array in {"grid": grid, "vector": vectors, "label": np.arange(30) % 5}.items():
        both = np.concatenate([split[name][:] for split in data.splits.values()])
        np.testing.assert_array_equal(both, array[order])
    assert data.train["on"].dtype == bool
    assert loaded.warnings == [f"data.root={tmp_path}/data: splits that are not used: extra"]


def broken(path):
    path.write_bytes(path.read_bytes()[:60])


def images(change, *options):
    """Return a wrong use of pictures: what is done to their folder, and options."""
    return (data_folders.pictures, change, ("data=images", *options))


def hub(change, *options):
    return (data_folders.huggingface, change, ("data=huggingface", *options))


def manifest(change):
    def summed(folder):
        words = "find . -type f ! -name SHA256SUMS -exec sha256sum {} + > SHA256SUMS"
        subprocess.run(words, shell=True, cwd=folder, check=True)
        change(folder)

    return images(summed, "data.manifest=SHA256SUMS")


def nothing(folder):
    pass


def of_columns(**columns):
    """Return a change: other columns, of a data set that save_to_disk wrote."""

    def write(folder):
        shutil.rmtree(folder)
        both = {"train": columns, "test": columns}
        data_folders.saved(folder, both, {name: {"_type": "Value"} for name in columns})

    return write


def two_images(folder):
    """Give a data set of save_to_disk two columns that would be one field."""
    of_columns(image=[1.0, 2.0], img=[1.0, 2.0])(folder)


WRONG = {
    "two columns of one field": (
        *hub(two_images),
        *(DataError, r"column (image|img) would be a second field image: name the columns"),
    ),
    "a slash in a column": (
        *hub(of_columns(**{"obs/image": [1.0]})),
        *(DataError, "column obs/image has a slash: name the columns to use"),
    ),
    "two folders of one split": (
        *images(lambda f: shutil.copytree(f / "test", f / "val") and (f / "valid").mkdir()),
        *(DataError, "two folders of one split: test, train, val, valid: leave one there"),
    ),
    "no folder": (*images(shutil.rmtree), DataError, r"data: cannot be read \(No such file"),
    "a broken picture": (
        *images(lambda f: broken(f / "train" / "coat" / "002.png")),
        *(DataError, r"train/coat/002\.png: cannot be read .*: correct or replace it"),
    ),
    "no picture": (
        *images(lambda f: (f / "test" / "coat" / "002.png").write_text("text")),
        *(DataError, r"test/coat/002\.png: not a PNG or JPEG file: convert"),
    ),
    "another size": (
        *images(
            lambda f: (f / "train" / "coat" / "002.png").write_bytes(png(examples(1, 9)[0][0]))
        ),
        *(
            DataError,
            r"002\.png: 9 x 9 pixels, but \S*/train/bag/000\.png 8 x 8: data\.image_size=",
        ),
    ),
    "16 bits": (
        *images(lambda f: Image.new("I;16", (8, 8)).save(f / "train" / "coat" / "002.png")),
        *(DataError, r"002\.png: the mode I;16: convert it to RGB or grey with 8 bits"),
    ),
    "for print": (
        *images(lambda f: Image.new("CMYK", (8, 8)).save(f / "train/coat/002.png", "JPEG")),
        *(DataError, r"002\.png: the mode CMYK: convert it to RGB or grey with 8 bits a channel"),
    ),
    "one class": (
        *images(lambda f: [shutil.rmtree(f / "train" / name) for name in NAMES[1:]]),
        *(DataError, r"folders with pictures: bag: make one for each class, like DIR/cat/1\.png"),
    ),
    "a new class": (
        *images(lambda f: (f / "train" / "bag").rename(f / "train" / "case")),
        *(DataError, r"there is a class bag in test, but none in train: give all splits the same"),
    ),
    "nothing to test": (
        *images(lambda f: shutil.rmtree(f / "test"), "data.test_fraction=0"),
        *(
            ConfigError,
            r"data\.test_fraction=0\.0: none of the 6 pictures of the class bag is held out: use a",
        ),
    ),
    "a picture of each class": (
        *images(lambda f: [shutil.rmtree(f / "test"), *map(few, (f / "train").iterdir())]),
        *(
            ConfigError,
            r"data\.test_fraction=0\.2: holds out all 1 pictures of the class bag: use a smaller",
        ),
    ),
    "a fraction of 1": (
        *images(nothing, "data.test_fraction=1"),
        *(ConfigError, r"data\.test_fraction=1\.0: use a number in \[0, 1\)"),
    ),
    "no sizes": (
        *images(nothing, "data.image_size=[8]"),
        *(ConfigError, r"data\.image_size=\[8\]: use two sizes in pixels, rows and columns, like"),
    ),
    "transparent": (
        *images(nothing, "data.channels=4"),
        *(ConfigError, r"data\.channels=4: use 1 for grey, or 3 for RGB"),
    ),
    "an option of others": (
        *images(nothing, "data.columns=[image]"),
        *(ConfigError, r"data\.columns=\['image'\]: only data=huggingface has it: choose that"),
    ),
    "one name": (
        *images(nothing, "data.class_names=[cat]"),
        *(ConfigError, r"data\.class_names=\['cat'\]: use one name for each class, all different"),
    ),
    "too few names": (
        *images(nothing, "data.class_names=[cat,dog]", "data.num_classes=5"),
        *(ConfigError, r"data\.class_names=\['cat', 'dog'\]: data\.num_classes=5: give a name for"),
    ),
    "no manifest": (
        *images(nothing, "data.manifest=SUMS"),
        *(DataError, r"/data/SUMS: cannot be read \(No such file.*: correct data\.manifest"),
    ),
    "no line of a manifest": (
        *images(lambda f: (f / "SUMS").write_text("all is well\n"), "data.manifest=SUMS"),
        *(DataError, r"data\.manifest=\S*/SUMS: line 1 is not DIGEST  FILE: write the manifest by"),
    ),
    "a missing file": (
        *manifest(lambda f: (f / "test" / "coat" / "002.png").unlink()),
        *(
            DataError,
            r"002\.png: cannot be read .No such .*: put it back, or leave it out of SHA256SUMS",
        ),
    ),
    "a changed file": (
        *manifest(lambda f: shutil.copy(f / "test" / "bag" / "000.png", f / "test/coat/002.png")),
        *(DataError, r"test/coat/002\.png: its SHA-256 is not that in SHA256SUMS: it was changed"),
    ),
    "a folder of others": (
        *hub(lambda f: (shutil.rmtree(f), f.mkdir())),
        *(DataError, r"data/state\.json: cannot be read .*: name a folder that save_to_disk"),
    ),
    "a split without rows": (
        *hub(lambda f: only_train(f)),
        *(DataError, r"data: split train has no rows: save it again with examples, or leave"),
    ),
    "no rows to test": (
        *hub(lambda f: only_train(f, 9), "data.test_fraction=0"),
        *(ConfigError, r"data\.test_fraction=0\.0: none of the 9 training examples is held out: "),
    ),
    "a path that cannot be": (
        *hub(nothing, f"data.root={'a' * 300}"),
        *(DataError, r"a/state\.json: cannot be read \(File name too long\): name a folder"),
    ),
    "a missing Arrow file": (
        *hub(lambda f: (f / "test" / "data-00001-of-00002.arrow").unlink()),
        *(DataError, r"test/data-00001-of-00002\.arrow: is listed in state\.json, but is missing"),
    ),
    "an Arrow file cut short": (
        *hub(lambda f: broken(f / "train" / "data-00001-of-00002.arrow")),
        *(DataError, r"train/data-00001-of-00002\.arrow: cannot be read \("),
    ),
    "no state": (
        *hub(lambda f: (f / "train" / "state.json").write_text("{}")),
        *(DataError, r"train/state\.json: is not as it was written: _data_files: write it again"),
    ),
    "a text": (
        *hub(lambda f: of_columns(text=["a", "b"] * 10)(f)),
        *(DataError, r"column text of split train holds string, not numbers: name the columns to"),
    ),
    "a null": (
        *hub(lambda f: of_columns(x=[1, None] * 10)(f)),
        *(DataError, r"column x of split train holds 3 nulls: replace them"),
    ),
    "lists of several lengths": (
        *hub(lambda f: of_columns(x=[[1], [1, 2]] * 10)(f)),
        *(DataError, r"column x of split train holds lists of 1 to 2 elements: pad them to one"),
    ),
    "no such column": (
        *hub(nothing, "data.columns=[img,lable]"),
        *(
            ConfigError,
            r"data\.columns=\['img', 'lable'\]: .* has no column lable: it has img, lab",
        ),
    ),
}


def only_train(folder, rows=0):
    shutil.rmtree(folder)
    data_folders.saved(folder, {"train": {"x": np.zeros(rows)}}, {"x": {"_type": "Value"}})


def few(folder):
    for path in sorted(folder.iterdir())[1:]:
        path.unlink()


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_wrong_uses_name_option_or_file_and_the_way_out(loaded, tmp_path, case):
    write, change, options, error, message = case
    if write is data_folders.huggingface:
        pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    change(write(tmp_path / "data", 30))
    with pytest.raises(error, match=message):
        loaded(*options)


def test_a_manifest_is_read_again_only_if_a_file_changed(loaded, tmp_path):
    _, summed, options = manifest(nothing)
    summed(data_folders.pictures(tmp_path / "data", 20))
    for _ in range(2):
        loaded(*options)
    starts = [report for report in loaded.reports if report[:2] == ("checking SHA256SUMS", 0)]
    assert len(starts) == 1


def test_without_pyarrow_the_way_to_install_it_is_named(loaded, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    data_folders.huggingface(tmp_path / "data", 20)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        UnavailableError, match=r"pyarrow is not installed.*pip install '\.\[parquet"
    ):
        loaded("data=huggingface")
