"""Wrong folders of pictures are refused: the option or file is named, with the way out."""

import shutil
import subprocess

import pytest
from PIL import Image
from support import data_folders
from support.data_folders import NAMES, broken, examples, nothing, png

from trainer.job.errors import ConfigError, DataError


def images(change, *options):
    """Return a wrong use of pictures: what is done to their folder, and options."""
    return (change, ("data=images", *options))


def manifest(change):
    def summed(folder):
        words = "find . -type f ! -name SHA256SUMS -exec sha256sum {} + > SHA256SUMS"
        subprocess.run(words, shell=True, cwd=folder, check=True)
        change(folder)

    return images(summed, "data.manifest=SHA256SUMS")


def few_classes(folder):
    for name in NAMES:
        shutil.rmtree(folder / "train" / name)


WRONG = {
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
    "a folder of one class": (
        *images(lambda f: [shutil.copy(f / "train/bag/000.png", f / "train"), few_classes(f)]),
        *(DataError, r"train has pictures itself: name the folder above it"),
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
}


def few(folder):
    for path in sorted(folder.iterdir())[1:]:
        path.unlink()


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_wrong_uses_name_option_or_file_and_the_way_out(loaded, tmp_path, case):
    change, options, error, message = case
    change(data_folders.pictures(tmp_path / "data", 30))
    with pytest.raises(error, match=message):
        loaded(*options)


def test_a_manifest_is_read_again_only_if_a_file_changed(loaded, tmp_path):
    summed, options = manifest(nothing)
    summed(data_folders.pictures(tmp_path / "data", 20))
    for _ in range(2):
        loaded(*options)
    starts = [report for report in loaded.reports if report[:2] == ("checking SHA256SUMS", 0)]
    assert len(starts) == 1
