"""The program in an export notices changed files, and refuses what it cannot take."""

import json
import os
import runpy
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from support.harm import flip_a_bit

from trainer.export import standalone

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def fails(folder, *arguments):
    """Run predict.py of an export in this process; return the error that it exits with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["predict.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(folder / "predict.py"), run_name="__main__")
    return str(ended.value)


def tampered(folder):
    weights = load_file(folder / "weights.safetensors")
    weights["1.bias"][3] += 0.5
    save_file(weights, folder / "weights.safetensors")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (tampered, "weights.safetensors was changed"),
        (lambda folder: flip_a_bit(folder / "weights.safetensors"), "weights.safetensors was"),
        (lambda folder: flip_a_bit(folder / "model.stablehlo"), "model.stablehlo was changed"),
    ],
    ids=["weights", "a bit of them", "program"],
)
def test_changed_files_are_noticed(exported, tmp_path, change, named):
    np.save(tmp_path / "images.npy", np.zeros((3, 28, 28), np.uint8))
    change(exported)
    assert named in fails(exported, tmp_path / "images.npy")


WRONG_IMAGES = {
    "float": np.zeros((3, 28, 28), np.float32),
    "flat": np.zeros((3, 784), np.uint8),
    "one image": np.zeros((28, 28), np.uint8),
    "a number": np.uint8(1),
    "none": np.zeros((0, 28, 28), np.uint8),
    "oblong": np.zeros((3, 14, 56), np.uint8),
}


@pytest.mark.parametrize("images", WRONG_IMAGES.values(), ids=WRONG_IMAGES)
def test_images_that_do_not_fit_are_told(smoke_export, images):
    model = standalone.load_model(smoke_export)
    with pytest.raises(ValueError, match=r"^image is .*: give uint8 \(N, 28, 28\), N >= 1$"):
        model(images)
    with pytest.raises(ValueError, match="image is list"):
        model(images.tolist() if images.ndim else [1])


def test_a_program_that_uses_it_is_told_by_an_exception(exported):
    tampered(exported)
    with pytest.raises(ValueError, match=r"weights\.safetensors was changed"):
        standalone.load_model(exported)


@pytest.mark.parametrize(
    "content", [b"", b"no array", b"PK\3\4cut short", None], ids=["empty", "text", "zip", "floats"]
)
def test_a_file_that_is_no_array_of_images(smoke_export, tmp_path, content):
    np.save(tmp_path / "images.npy", np.zeros((3, 28, 28)))
    if content is not None:
        (tmp_path / "images.npy").write_bytes(content)
    assert "python predict.py FILE" in fails(smoke_export, tmp_path / "images.npy")


@pytest.mark.parametrize("content", ["a picture", "objects"])
def test_a_file_that_is_no_array_of_numbers(smoke_export, tmp_path, content):
    path = tmp_path / "three.png"
    if content == "objects":
        path = tmp_path / "three.npy"
        np.save(path, np.array([{}]))
    else:
        Image.new("L", (28, 28)).save(path)
    message = fails(smoke_export, path)
    assert message.startswith(f"{path} is no array of numbers: convert it to one, with numpy.save")
    assert "allow_pickle" not in message


@pytest.mark.parametrize("version", [(0, 8, 1), (0, 4, 30), (0, 8, 2), (0, 10, 0)])
def test_an_older_jax_is_named(smoke_export, monkeypatch, version):
    """0.8.1 says that the function "was exported for 0 devices"; 0.8.2 runs it."""
    index = json.loads((smoke_export / "model.json").read_text())
    assert index["jax"] == ">=0.8.2"
    assert "needs jax 0.8.2 or newer" in (smoke_export / "MODEL_CARD.md").read_text()
    monkeypatch.setattr("jax.__version_info__", version)
    if version < (0, 8, 2):
        with pytest.raises(ValueError, match=r"the model needs jax 0\.8\.2 or newer"):
            standalone.load_model(smoke_export)
    else:
        standalone.load_model(smoke_export)


@pytest.mark.parametrize("arguments", [(), ("absent.npy",)], ids=["none", "no file"])
def test_without_images_it_says_how_it_is_used(smoke_export, arguments):
    assert "python predict.py FILE" in fails(smoke_export, *arguments)


def test_a_reader_that_stops_reading_ends_it_without_an_error(smoke_export, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((3, 28, 28), np.uint8))
    reading, writing = os.pipe()
    os.close(reading)
    program = [sys.executable, smoke_export / "predict.py", tmp_path / "images.npy"]
    ended = subprocess.run(program, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, b"")
