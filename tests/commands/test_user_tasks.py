"""`evaluate`, `predict` and `export` work for tasks that users bring, whatever they give."""

import json
import os
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from support import user_tasks

from trainer.checkpoint import load_model
from trainer.commands import evaluate, predict
from trainer.export import command as export
from trainer.export import files, standalone
from trainer.job.errors import EXIT_DATA, ConfigError
from trainer.job.signals import StopRequest

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run of a classifier of images."""
    return user_tasks.train(tmp_path_factory.mktemp("digits"), "digits", user_tasks.DIGITS)


@pytest.fixture(scope="module")
def prices(tmp_path_factory):
    """A run of a regression with two inputs, without metrics."""
    folder = tmp_path_factory.mktemp("prices")
    return user_tasks.train(folder, "prices", user_tasks.PRICES, "data.options.count=48")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """A run of a model of tokens."""
    return user_tasks.train(tmp_path_factory.mktemp("tokens"), "tokens", user_tasks.TOKENS)


@pytest.fixture
def done(capsys):
    """Runs a command; returns its exit code, standard output and standard error."""

    def call(command, *arguments):
        code = command.main([str(a) for a in arguments], StopRequest())
        return (code, *capsys.readouterr())

    return call


def summary(run):
    return json.loads((run / "summary.json").read_text())


def test_evaluate_finds_what_the_run_found(digits, prices, tokens, done, tmp_path):
    for run, names in (
        (digits, ("loss", "accuracy")),
        (prices, ("loss",)),
        (tokens, ("loss", "bits_per_token")),
    ):
        code, out, err = done(evaluate, run, "--out", tmp_path / run.name, "--json")
        report = json.loads(out)
        assert (code, err) == (0, "")
        classes = ["classes", "confusion"] if run == digits else []
        assert list(report) == ["run", "step", "data", "examples", *names, *classes]
        for name in names:
            assert report[name] == pytest.approx(summary(run)[f"test_{name}"], rel=1e-5)
        assert len(list((tmp_path / run.name).iterdir())) == 1 + (run == digits)
    _, out, _ = done(evaluate, prices, "--out", tmp_path / "prices")
    assert out.splitlines()[1:] == [
        "data       prices, 20 test examples",
        f"loss       {summary(prices)['test_loss']:.4f}",
    ]


def test_images_in_a_folder_are_for_models_of_images(digits, prices, done, tmp_path, mnist_dir):
    code, out, _ = done(evaluate, digits, "--data", mnist_dir, "--out", tmp_path, "--json")
    assert (code, json.loads(out)["examples"]) == (0, 10_000)
    with pytest.raises(ConfigError, match=r"--data .*: the model reads rooms, areas, price: leave"):
        done(evaluate, prices, "--data", mnist_dir)


def test_the_files_of_the_user_may_be_gone(prices, done, tmp_path, monkeypatch):
    """The run keeps copies of them; nothing depends on the current folder."""
    run = shutil.copytree(prices, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    file = prices.parent / "prices.py"
    file.rename(tmp_path / "away.py")
    for name in [name for name in sys.modules if name.startswith("user_")]:
        del sys.modules[name]
    try:
        code, out, err = done(evaluate, run, "--json")
    finally:
        (tmp_path / "away.py").rename(file)
    assert (code, err) == (0, "")
    assert json.loads(out)["loss"] == pytest.approx(summary(prices)["test_loss"], rel=1e-5)


def test_predict_reads_arrays_and_what_the_task_reads(digits, prices, done, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((2, 28, 28), np.int64))
    code, out, err = done(predict, digits, tmp_path / "images.npy")
    assert (code, err) == (0, "")
    assert out.split()[:4] == ["file", "class", "probability", "next"]

    rooms, areas = np.array([[1], [2], [3]]), np.arange(9.0).reshape(3, 3)
    np.savez(tmp_path / "a.npz", rooms=rooms, areas=areas)
    (tmp_path / "b.json").write_text(json.dumps({"rooms": [[1]], "areas": [[0, 1, 2]]}))
    (tmp_path / "bad.json").write_text("{}")
    np.savez(tmp_path / "bad.npz", rooms=rooms, areas=areas[:2])
    np.save(tmp_path / "bad.npy", rooms)
    (tmp_path / "empty.npz").touch()
    bad = {
        "bad.json": "bad.json: model.module=prices.py, read(): KeyError",
        "bad.npz": "one number of examples",
        "bad.npy": "the model reads rooms, areas: areas is missing",
        "empty.npz": "cannot be read (",
    }
    files = [tmp_path / name for name in ("a.npz", *bad, "b.json")]
    code, out, err = done(predict, prices, *files, "--json", "--out", tmp_path / "out.npz")
    report = json.loads(out)
    assert code == EXIT_DATA
    for error, words in zip(report["errors"], bad.values(), strict=True):
        assert words in error["error"]
        assert words in err
    weights = load_model.load(prices, None, print).weights
    expected = np.concatenate([areas, rooms], axis=1) @ weights["w"] + weights["b"]
    outputs = [one["outputs"] for one in report["predictions"]]
    assert [one["index"] for one in report["predictions"]] == [0, 1, 2, None]
    np.testing.assert_allclose([one["price"] for one in outputs[:3]], expected, rtol=1e-5)
    assert outputs[3]["price"] == pytest.approx(outputs[0]["price"]), "the same example"
    written = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(written["price"][:3], expected, rtol=1e-5)
    assert written["parts"].shape == (4, 4)
    assert list(written["index"]) == [0, 1, 2, 0]
    _, out, _ = done(predict, prices, tmp_path / "a.npz")
    header, first, *_ = out.splitlines()
    assert header.split() == ["file", "parts", "price"]
    assert first.split()[0].endswith("a.npz[0]")
    assert len(first.split()) == 6  # four parts and the price


def test_predict_shows_no_large_outputs(tokens, done, tmp_path):
    np.savez(tmp_path / "a.npz", tokens=np.arange(13)[None], unused=np.zeros(3))
    code, out, err = done(predict, tokens, tmp_path / "a.npz", "--json")
    logits = json.loads(out)["predictions"][0]["outputs"]["logits"]
    assert (code, err, np.shape(logits)) == (0, "", (13, 20))
    _, out, _ = done(predict, tokens, tmp_path / "a.npz")
    assert "bfloat16 13 x 20" in out
    code, _, err = done(predict, tokens, tmp_path / "a.txt")
    assert code == EXIT_DATA
    assert "the model reads arrays: tokens: give them in an .npz file" in err


def test_export(digits, prices, tokens, done, tmp_path):
    for run in (digits, prices, tokens):
        folder = tmp_path / run.name
        code, out, err = done(export, run, folder)
        assert code == 0
        assert "warning" not in err
        assert "model.onnx was left out: there is no converter for this model" in out
        assert " test examples of " in out
        model = load_model.load(run, None, print)
        card = (folder / "MODEL_CARD.md").read_text()
        assert f"The model of `{run.name}.py`, SHA-256 `{model.record['module_sha256']}`" in card
        text = card.partition("## Configuration")[0]
        assert ("class" in text, "$" in text) == (run == digits, False)
        chance = np.random.default_rng(1)
        examples = {
            name: chance.integers(0, 6, (5, *spec.shape)).astype(spec.dtype)
            for name, spec in model.task.example.items()
            if name in model.task.inputs
        }
        live = model.predict(examples)
        outputs = standalone.load_model(folder)(examples)
        assert (
            outputs.keys()
            == live.keys()
            == json.loads((folder / "model.json").read_text())["outputs"].keys()
        )
        for name, expected in live.items():
            assert outputs[name].dtype == expected.dtype
            np.testing.assert_allclose(np.float32(outputs[name]), np.float32(expected), rtol=1e-5)
    weights = load_file(tmp_path / "digits" / "weights.safetensors")
    assert set(weights) == {"scale", "layers.0.kernel", "layers.0.bias"}

    np.savez(tmp_path / "houses.npz", rooms=np.ones((2, 1), "i4"), areas=np.ones((2, 3), "f4"))
    (tmp_path / "empty").mkdir()
    program = [sys.executable, "-I", tmp_path / "prices" / "predict.py", tmp_path / "houses.npz"]
    environ = {"PATH": os.environ["PATH"], "JAX_PLATFORMS": "cpu"}
    output = subprocess.run(
        program, cwd=tmp_path / "empty", env=environ, capture_output=True, text=True, timeout=300
    )
    assert "price: float32 (2,)" in output.stdout, output.stderr


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn"])
def test_an_export_of_other_floats(tokens, tmp_path, dtype):
    model = load_model.load(tokens, None, print)
    model = model._replace(weights={"embed": jnp.asarray(model.weights["embed"]).astype(dtype)})
    files.write(tmp_path, model, None)
    examples = {"tokens": np.arange(26, dtype=np.int32).reshape(2, 13) % 20}
    outputs = standalone.load_model(tmp_path)(examples)
    live = model.predict(examples)
    np.testing.assert_array_equal(np.asarray(outputs["logits"]), live["logits"])


def test_an_export_without_the_data(prices, done, tmp_path, monkeypatch):
    def gone(*_, **__):
        raise ConfigError("data.module: FileNotFoundError: houses.csv")

    monkeypatch.setattr("trainer.sources.load.load", gone)
    code, out, err = done(export, prices, tmp_path / "prices")
    assert code == 0
    assert "there are no test examples (data.module: FileNotFoundError" in err
    assert "on 1,000 random examples the outputs of model.stablehlo" in out
