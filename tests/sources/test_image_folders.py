"""Folders of pictures, one a class, become arrays: their splits, classes, sizes and modes."""

import numpy as np
from PIL import Image
from support import data_folders
from support.data_folders import NAMES, examples, png


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
