"""An exported model is the run's model, needs no trainer, and notices what was changed."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from PIL import Image
from safetensors.numpy import load_file, save_file
from support.harm import flip_a_bit, own_disk
from support.trained_runs import copy, damage, everything

from trainer.checkpoint import load_model
from trainer.config.schema import DataConfig
from trainer.export import command, files, programs, standalone
from trainer.formats import idx
from trainer.job.errors import (
    EXIT_CONFIG,
    EXIT_INTERNAL,
    ConfigError,
    DataError,
    Preempted,
    SaveError,
    TrainerError,
)
from trainer.job.signals import StopRequest
from trainer.sources.load import load
from trainer.tasks import make

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

FILES = {
    "MODEL_CARD.md",
    "model.json",
    "model.onnx",
    "model.stablehlo",
    "predict.py",
    "weights.safetensors",
}
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


def fails(folder, *arguments):
    """Run predict.py of an export in this process; return the error that it exits with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["predict.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(folder / "predict.py"), run_name="__main__")
    return str(ended.value)


@pytest.fixture(scope="module")
def mnist_export(mnist_run, tmp_path_factory):
    """An export of the run on MNIST."""
    folder = tmp_path_factory.mktemp("exported") / "digits"
    assert command.main([str(mnist_run), str(folder)], StopRequest()) == 0
    return folder


@pytest.fixture(scope="module")
def smoke_export(smoke_run, tmp_path_factory):
    """An export of the small run: not to be changed."""
    folder = tmp_path_factory.mktemp("exported") / "digits"
    assert command.main([str(smoke_run), str(folder)], StopRequest()) == 0
    return folder


@pytest.fixture
def exported(smoke_export, tmp_path):
    """A copy of it, to do harm to."""
    return copy(smoke_export, tmp_path / "digits")


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


def test_the_card(smoke_run, smoke_export):
    card = (smoke_export / "MODEL_CARD.md").read_text()
    summary = json.loads((smoke_run / "summary.json").read_text())
    accuracy, loss = summary["test_accuracy"], summary["test_loss"]
    watched = summary["validation_accuracy"], summary["validation_loss"]
    index = json.loads((smoke_export / "model.json").read_text())
    for output in (
        "784-64-10, 50,890 parameters, float32",
        f"| mnist_5k, 1,000 test examples, at the export | {loss:.4f} | {accuracy:.2%} |",
        f"| mnist_5k, 400 validation examples, by the run | {watched[1]:.4f} | {watched[0]:.2%} |",
        "mnist_5k: 3,600 train + 400 validation + 1,000 test examples.",
        "| input `image` | uint8 | N x 28 x 28 |",
        "| output `logits` | float32 | N x 10 |",
        summary["dataset"]["sha256"],
        summary["weights_sha256"],
        f"| `weights.safetensors` | `{index['sha256']['weights.safetensors']}` |",
        'global_batch_size": 64',
        "| jax | ",
        "## Limits",
    ):
        assert output in card


def test_the_card_of_other_images(kinds_run, tmp_path):
    assert command.main([str(kinds_run), str(tmp_path / "kinds")], StopRequest()) == 0
    card = (tmp_path / "kinds" / "MODEL_CARD.md").read_text()
    assert "which of 3 classes an example belongs to: 0 to 2." in card
    assert "| input `image` | uint8 | N x 8 x 6 |" in card
    index = json.loads((tmp_path / "kinds" / "model.json").read_text())
    options = load_model.load(kinds_run, None, print).record["config"]["data"]
    options = DataConfig(**{**options, "root": str(kinds_run.parent / "images")})
    images = np.asarray(load(options, progress=print, poll=print, warn=print).train["image"])
    assert len(images) == 540  # 600 but for those to validate by
    measured = {"pixel_mean": images.mean(), "pixel_std": images.std()}
    assert index["pixels"] == pytest.approx(measured, rel=1e-9)
    mean, std = (f"{value:.8g}" for value in measured.values())
    assert f"It subtracts {mean} from each and divides by {std}" in card
    assert re.search(r"\| idx, 90 test examples, at the export \| 0\.\d+ \| 100\.00% \|", card)


def test_nothing_tells_of_this_machine(smoke_run, smoke_export):
    for path in smoke_export.iterdir():
        data = path.read_bytes()
        for output in (str(smoke_run), str(smoke_run.parent), str(Path.cwd()), load_model.__file__):
            assert output.encode() not in data, f"{output} in {path.name}"


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


def other_weights(smoke_run, monkeypatch):
    right = programs.named

    def wrong(weights):
        arrays = right(weights)
        arrays["1.bias"] = arrays["1.bias"] + np.float32(1e-3) * np.arange(10, dtype="f4")
        return arrays

    monkeypatch.setattr(programs, "named", wrong)


def other_onnx_file(smoke_run, monkeypatch):
    older = programs.onnx(load_model.load(smoke_run, 57, print))
    monkeypatch.setattr(programs, "onnx", lambda _: older)


@pytest.mark.parametrize(
    ("harm", "file"), [(other_weights, "model.stablehlo"), (other_onnx_file, "model.onnx")]
)
def test_an_export_that_does_not_agree_is_not_put_in_place(
    smoke_run, tmp_path, monkeypatch, harm, file
):
    harm(smoke_run, monkeypatch)
    message = rf"on 1,000 test .* of {file} differ .*; 1e-0[56] is allowed; nothing was put in"
    with pytest.raises(TrainerError, match=message) as raised:
        command.main([str(smoke_run), str(tmp_path / "digits")], StopRequest())
    assert raised.value.exit_code == EXIT_INTERNAL
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_onnx(smoke_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)  # what import finds where it is not installed
    assert command.main([str(smoke_run), str(tmp_path / "digits")], StopRequest()) == 0
    assert {path.name for path in (tmp_path / "digits").iterdir()} == FILES - {"model.onnx"}
    out = capsys.readouterr().out
    assert "model.onnx was left out: install the extra `onnx`: pip install '.[onnx]'" in out
    assert "model.onnx was left out" in (tmp_path / "digits" / "MODEL_CARD.md").read_text()


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


def test_only_an_export_is_replaced_and_only_when_asked(smoke_run, exported, tmp_path):
    def run(target, *options):
        return command.main([str(smoke_run), str(target), *options], StopRequest())

    before = everything(exported)
    with pytest.raises(ConfigError, match="holds an export: add --replace"):
        run(exported)
    (exported / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"not from an export: notes\.txt"):
        run(exported, "--replace")
    (exported / "notes.txt").unlink()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "model.json").write_text('{"sha256": {}}')
    (tmp_path / "file").write_text("")
    for other in (mine, tmp_path / "file", smoke_run, tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"not from an export|cannot be written"):
            run(other, "--replace")
    del before["."]
    after = everything(exported)
    assert {name: after[name] for name in before} == before
    assert run(exported, "--replace", "--step", "57") == 0
    assert json.loads((exported / "model.json").read_text())["step"] == 57
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"digits", "mine", "file", "empty"}


def test_an_export_that_was_imported_is_replaced(smoke_run, exported):
    use = "from predict import load_model; from pathlib import Path; load_model(Path())"
    environ = {"PATH": os.environ["PATH"], "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", use], cwd=exported, env=environ, check=True)
    assert (exported / "__pycache__").is_dir()
    assert command.main([str(smoke_run), str(exported), "--replace"], StopRequest()) == 0
    assert {path.name for path in exported.iterdir()} == FILES
    assert [path.name for path in exported.parent.iterdir()] == ["digits"]
    (exported / "model.json").unlink()
    (exported / "__pycache__").mkdir()
    with pytest.raises(ConfigError, match="not from an export"):
        command.main([str(smoke_run), str(exported), "--replace"], StopRequest())


def test_a_failed_replacement_leaves_the_old_one(exported):
    before = everything(exported)
    with (
        pytest.raises(ConfigError, match=r"cannot be written \(No such file"),
        command.replacing(exported, replace=True) as folder,
    ):
        (folder / "missing" / "file").touch()
    assert everything(exported) == before
    assert [path.name for path in exported.parent.iterdir()] == ["digits"]


def test_a_full_disk(smoke_run, tmp_path):
    with own_disk(tmp_path, "size=128k"):
        with pytest.raises(
            SaveError, match=r"/digits cannot be written .*No space .* make room"
        ) as raised:
            command.main([str(smoke_run), str(tmp_path / "digits")], StopRequest())
        assert list(tmp_path.iterdir()) == []
    assert raised.value.exit_code == 74


def test_damaged_checkpoints(smoke_run, tmp_path, capsys):
    run = copy(smoke_run, tmp_path / "run")
    damage(run, 114)
    before = everything(run)
    assert command.main([str(run), str(tmp_path / "digits")], StopRequest()) == 0
    assert json.loads((tmp_path / "digits" / "model.json").read_text())["step"] == 57
    assert "checkpoint 114 of" in capsys.readouterr().err
    assert everything(run) == before
    damage(run, 57)
    with pytest.raises(DataError, match="none of its checkpoints is intact"):
        command.main([str(run), str(tmp_path / "other")], StopRequest())
    assert not (tmp_path / "other").exists()


def test_where_the_test_images_are_not_to_be_had(smoke_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("trainer.sources.mnist.FILE_5K", "data/none.csv.gz")
    assert command.main([str(smoke_run), str(tmp_path / "digits")], StopRequest()) == 0
    output = capsys.readouterr().err
    assert "there are no test examples (" in output
    assert "): the files are compared on random ones, and the card gets no metrics" in output
    card = (tmp_path / "digits" / "MODEL_CARD.md").read_text()
    assert "on 1,000 random examples" in card
    assert "at the export |" not in card
    with pytest.raises(DataError, match="put it there"):
        command.main(
            [str(smoke_run), str(tmp_path / "other"), "--data", str(tmp_path)], StopRequest()
        )


def test_asked_to_stop(smoke_run, tmp_path):
    stop = StopRequest()
    stop.signal_name = "SIGTERM"
    with pytest.raises(Preempted):
        command.main([str(smoke_run), str(tmp_path / "digits")], stop)
    assert list(tmp_path.iterdir()) == []


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


def test_the_command_line(trainer, smoke_run):
    done = trainer("export", str(smoke_run), "digits")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"in {trainer.folder / 'digits'}"
    assert "checkpoint 114 of" in done.stderr
    output = [line for line in done.stdout.splitlines() if " differ from the live " in line]
    assert len(output) == 2
    assert not any(line in done.stderr for line in output)
    assert trainer("export", str(smoke_run), "digits").returncode == EXIT_CONFIG
    shutil.rmtree(trainer.folder / "digits")
    assert files.TOLERANCE <= 1e-6
