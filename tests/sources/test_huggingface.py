"""A data set that save_to_disk wrote becomes arrays, or its column or file is named."""

import shutil
import sys

import numpy as np
import pytest
from support import data_folders
from support.data_folders import CLASS_LABEL, NAMES, broken, nothing

from trainer.job.errors import ConfigError, DataError, UnavailableError


def test_new_names_of_classes_are_read_again(loaded, tmp_path):
    folder = data_folders.huggingface(tmp_path / "data", 20)
    assert loaded("data=huggingface").class_names == tuple(NAMES)
    for info in folder.glob("*/dataset_info.json"):
        info.write_text(info.read_text().replace(NAMES[0], "renamed"))
    assert loaded("data=huggingface").class_names == ("renamed", *NAMES[1:])


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


def hub(change, *options):
    """Return a wrong use of a data set that save_to_disk wrote: a change and options."""
    return (change, ("data=huggingface", *options))


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


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_wrong_uses_name_option_or_file_and_the_way_out(loaded, tmp_path, case):
    pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    change, options, error, message = case
    change(data_folders.huggingface(tmp_path / "data", 30))
    with pytest.raises(error, match=message):
        loaded(*options)


def test_without_pyarrow_the_way_to_install_it_is_named(loaded, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    data_folders.huggingface(tmp_path / "data", 20)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        UnavailableError, match=r"pyarrow is not installed.*pip install '\.\[parquet"
    ):
        loaded("data=huggingface")
