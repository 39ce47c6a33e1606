"""An exported model is the run's model, in JAX and in ONNX, and needs no trainer."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import load_file
from support.exports import FILES, export

from trainer.checkpoint import load_model
from trainer.data.dataset import Columns
from trainer.export import command, files, programs
from trainer.formats import idx
from trainer.job.signals import StopRequest
from trainer.tasks import make

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
# What a user of an export may write, where no trainer is installed.
USE = """
import sys, runpy, pathlib, importlib.util
import numpy as np
assert importlib.util.find_spec("trainer") is None
sys.modules["safetensors"] = None
folder = pathlib.Path(sys.argv[1])
model = runpy.run_path(str(folder / "predict.py"))["load_model"](folder)
images = np.load(sys.argv[2])
whole = model(images)
parts = [model({"image": images[lo : lo + 64]}) for lo in range(0, len(images), 64)]
joined = {f"{name} in parts": np.concatenate([part[name] for part in parts]) for name in whole}
np.savez(sys.argv[3], **whole, **joined)
"""


def elsewhere(folder, *arguments):
    """Run python where no trainer can be imported."""
    return subprocess.run(
        [sys.executable, "-I", *map(str, arguments)],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def mnist_export(mnist_run, tmp_path_factory):
    """An export of the run on MNIST."""
    return export(mnist_run, tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def images(mnist_dir):
    """The test images of MNIST, (10000, 28, 28)."""
    return idx.read_images(mnist_dir / "t10k-images-idx3-ubyte.gz")


def test_without_the_trainer_it_agrees_on_all_test_images(
    mnist_run, mnist_export, images, mnist_dir, tmp_path
):
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "use.py").write_text(USE)
    empty = tmp_path / "empty"
    empty.mkdir()
    done = elsewhere(
        empty, tmp_path / "use.py", mnist_export, tmp_path / "images.npy", tmp_path / "out.npz"
    )
    assert done.returncode == 0, done.stderr
    outputs = np.load(tmp_path / "out.npz")
    live = load_model.load(mnist_run, None, print).predict({"image": images})
    assert outputs["logits"].shape == (10_000, 10)
    size = np.abs(live["logits"]).max(axis=1, keepdims=True)
    for end in ("", " in parts"):
        assert (np.abs(outputs[f"logits{end}"] - live["logits"]) / size).max() <= 1e-6
        assert np.abs(outputs[f"probabilities{end}"] - live["probabilities"]).max() <= 1e-6
    labels = idx.read_labels(mnist_dir / "t10k-labels-idx1-ubyte.gz", 10)
    summary = json.loads((mnist_run / "summary.json").read_text())
    assert np.mean(outputs["probabilities"].argmax(axis=1) == labels) == summary["test_accuracy"]
    output = elsewhere(empty, mnist_export / "predict.py", tmp_path / "images.npy")
    assert output.stdout.split() == [str(digit) for digit in live["logits"].argmax(axis=1)]


def test_onnxruntime_agrees_on_all_test_images(mnist_run, mnist_export, images):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(
        (mnist_export / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"]
    )
    live = load_model.load(mnist_run, None, print).predict({"image": images})
    for count in (10_000, 1):  # of any batch size
        logits, probabilities = session.run(["logits", "probabilities"], {"image": images[:count]})
        size = np.abs(live["logits"][:count]).max(axis=1, keepdims=True)
        assert (np.abs(logits - live["logits"][:count]) / size).max() <= 1e-5
        assert np.abs(probabilities - live["probabilities"][:count]).max() <= 1e-5


def test_what_is_in_the_folder(smoke_run, smoke_export):
    assert {path.name for path in smoke_export.iterdir()} == FILES
    assert [path.name for path in smoke_export.parent.iterdir()] == ["digits"]
    index = json.loads((smoke_export / "model.json").read_text())
    assert set(index["sha256"]) == FILES - {"model.json"}
    summary = json.loads((smoke_run / "summary.json").read_text())
    assert index["weights_sha256"] == summary["weights_sha256"]
    assert index["inputs"] == {"image": {"dtype": "uint8", "shape": ["batch", 28, 28]}}
    output = {"dtype": "float32", "shape": ["batch", 10]}
    assert index["outputs"] == {"logits": output, "probabilities": output}
    assert (index["step"], index["platforms"]) == (114, ["cpu", "cuda"])
    weights = load_file(smoke_export / "weights.safetensors")
    model = load_model.load(smoke_run, None, print)
    assert set(weights) == {f"{i}.{kind}" for i in (0, 1) for kind in ("kernel", "bias")}
    for i, layer in enumerate(model.weights):
        np.testing.assert_array_equal(weights[f"{i}.kernel"], layer.kernel)
        np.testing.assert_array_equal(weights[f"{i}.bias"], layer.bias)


def test_the_program_is_for_gpus_too(smoke_export):
    import jax.export

    program = jax.export.deserialize(bytearray((smoke_export / "model.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda")
    assert str(program.in_avals[-1]) == "uint8[batch,28,28]"


def test_the_same_model_gives_the_same_files(smoke_run, exported, smoke_export):
    again = exported.parent / "again"
    assert command.main([str(smoke_run), str(again)], StopRequest()) == 0
    for name in FILES:
        assert (again / name).read_bytes() == (smoke_export / name).read_bytes(), name


def test_large_logits_may_differ_by_more(smoke_run, tmp_path):
    model = load_model.load(smoke_run, None, print)
    kernel, bias = model.weights[-1]
    last = model.weights[-1]._replace(kernel=kernel * 500, bias=bias * 500)
    changed = model._replace(weights=[*model.weights[:-1], last])
    output = files.write(tmp_path, changed, None)
    images = {"image": np.random.default_rng(0).integers(0, 256, (1000, 28, 28), np.uint8)}
    assert (tmp_path / "model.onnx").exists()
    onnx = next(line for line in output if "model.onnx" in line)
    evaluator = ReferenceEvaluator(str(tmp_path / "model.onnx"))
    (probabilities,) = evaluator.run(["probabilities"], images)
    live = changed.predict(images)["probabilities"]
    apart = np.abs(probabilities - live).max()
    of_size = [float(text) for text in re.findall(r"by at most ([\d.e-]+)", onnx)]
    assert apart > files.ONNX_TOLERANCE > max(of_size)


def test_images_that_are_not_square(smoke_run):
    model = load_model.load(smoke_run, None, print)
    layer = model.weights[0]
    weights = [layer._replace(kernel=layer.kernel[:783]), *model.weights[1:]]
    objective = {**model.record["objective"], "image_shape": [27, 29]}
    record = {**model.record, "objective": objective}
    task = make.from_record(record, smoke_run, print)
    odd = model._replace(weights=weights, record=record, task=task)
    images = {"image": np.random.default_rng(0).integers(0, 256, (5, 27, 29), np.uint8)}
    live = odd.predict(images)
    evaluator = ReferenceEvaluator(onnx.load_from_string(programs.onnx(odd)))
    (probabilities,) = evaluator.run(["probabilities"], images)
    np.testing.assert_allclose(probabilities, live["probabilities"], atol=1e-5)
    assert programs.stablehlo(odd)


def test_random_examples_have_the_only_value_of_a_category():
    trained = SimpleNamespace(columns=Columns([], {"city": ["Bern"]}))
    assert not files._random({"city": jax.ShapeDtypeStruct((), np.int32)}, trained)["city"].any()
