"""The Python API trains what the command line trains, and gives the model back."""

import os
import signal
import sys
import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.in_process import train
from support.program import CACHE

import trainer
from trainer import Dataset
from trainer.job.errors import ConfigError

MODEL = """
import jax
import jax.numpy as jnp
from dataclasses import dataclass

@dataclass
class Options:
    scale: float = 255.0

def init(key, example, options):
    return {"w": jax.random.normal(key, (example["image"].size, 10)) * jnp.float32(0.01)}

def fwd(example, weights, options):
    x = jnp.asarray(example["image"]).astype(jnp.float32).reshape(-1)
    return jnp.dot(x * jnp.float32(1 / options.scale), weights["w"])
"""
SHORT = ("train.epochs=1", "train.steps_per_dispatch=21", "optim=adamw", "parallel.devices=1")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINER_CACHE_DIR", str(CACHE))
    before = jax.config.values["jax_compilation_cache_dir"]
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_it_gives_the_weights_of_the_command_line(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    result = trainer.fit("model.py", "mnist_5k", *SHORT, "run.dir=api")
    assert result.completed
    assert result.steps == 57
    assert result.metrics.keys() == {"loss", "accuracy"}
    done = train(
        tmp_path,
        "model=module",
        "model.module=model.py",
        "data=mnist_5k",
        *SHORT[:-1],
        "run.dir=cli",
    )
    assert done.returncode == 0, done.stderr
    assert trainer.evaluate("cli") == pytest.approx(result.metrics)
    weights = [trainer.load(run).weights["w"] for run in ("api", "cli")]
    np.testing.assert_array_equal(*weights)
    assert (
        result.weights_sha256
        == trainer.fit("model.py", "mnist_5k", *SHORT, "run.dir=cli").weights_sha256
    )


def test_functions_and_arrays_of_a_notebook():
    def init(key, example, options):
        return {"w": jnp.zeros(example["x"].shape, jnp.float32)}

    def fwd(example, weights, options):
        return jnp.dot(jnp.asarray(example["x"]), weights["w"])

    def loss(output, example):
        return jnp.square(output - jnp.asarray(example["y"]))

    x = np.random.default_rng(0).normal(size=(300, 5))
    y = x @ np.arange(5.0)
    dataset = Dataset("line", {"x": x[:250], "y": y[:250]}, {"x": x[250:], "y": y[250:]})
    task = SimpleNamespace(init=init, fwd=fwd, loss=loss)
    result = trainer.fit(
        task, dataset, "train.epochs=30", "optim.lr=0.05", "run.dir=run", "parallel.devices=1"
    )
    assert result.metrics["loss"] < 0.01
    assert result.summary["test_accuracy"] is None
    model = trainer.load("run", task=task)
    np.testing.assert_allclose(model.predict({"x": np.float32(x[:3])})["output"], y[:3], atol=0.1)
    np.testing.assert_allclose(model.predict(np.float32(x[:3]))["output"], y[:3], atol=0.1)


def test_ctrl_c_saves_and_the_same_call_resumes(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    call = ("model.py", "mnist_5k", *SHORT[1:], "train.epochs=60", "run.dir=run")
    before = signal.getsignal(signal.SIGINT)
    log = tmp_path / "run" / "metrics.jsonl"

    def press():
        while not (log.exists() and log.stat().st_size):
            threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    stopped = trainer.fit(*call)
    thread.join()
    assert not stopped.completed
    assert stopped.weights_sha256 is None
    assert signal.getsignal(signal.SIGINT) is before
    assert stopped.steps > 0
    again = trainer.fit(*call[:-2], "train.epochs=60", "run.dir=run", "train.log_every_steps=50")
    assert again.completed
    assert again.summary["resumed_from_step"] == stopped.steps


def test_a_mistake_is_an_error_with_the_words_of_the_command_line(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    with pytest.raises(ConfigError, match=r"scael is not an option of .*: did you mean scale"):
        trainer.fit("model.py", "mnist_5k", "model.options.scael=1")
    with pytest.raises(ConfigError, match=r"nothing\.py: there is no such file"):
        trainer.fit("nothing.py")


def test_importing_it_takes_no_time():
    import subprocess

    code = "import sys, trainer; print('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.strip() == "False"
