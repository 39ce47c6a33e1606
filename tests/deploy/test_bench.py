"""`scripts/bench` as its users call it: a cheap section from end to end, and what it refuses."""

import json
import os
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from trainer.config import user_module

ROOT = Path(__file__).parents[2]
SECTION = ("--quick", "--sections", "data", "--out", "out", "data=mnist_5k")


@pytest.fixture
def bench(tmp_path):
    def call(*arguments):
        return subprocess.run(
            [ROOT / "scripts" / "bench", *arguments],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "BENCH_PYTHON": sys.executable,
                "JAX_PLATFORMS": "cpu",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return call


@pytest.mark.slow
def test_a_section_is_measured_once_and_kept(bench, tmp_path):
    done = bench(*SECTION)
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / "out"
    results = json.loads((out / "bench.json").read_text())
    assert results["machine"]["dataset"]["name"] == "mnist_5k"
    lines = results["sections"]["data"]["lines"]
    assert len(lines) == 7
    for line in lines:
        assert not line["left_out"], line
        assert 0 < line["min"] <= line["median"] <= line["max"]
        assert line["includes"]
        assert line["name"] in done.stdout
    measured = (out / "data.json").stat().st_mtime_ns
    again = bench(*SECTION)
    assert again.returncode == 0, again.stdout + again.stderr
    assert lines[0]["name"] in again.stdout
    assert (out / "data.json").stat().st_mtime_ns == measured
    assert not list(tmp_path.rglob("*.npy"))

    other = bench("--sections", "data", "--out", "out", "data=mnist_5k")
    assert other.returncode == 78
    assert "other settings" in other.stderr


@pytest.mark.slow
def test_an_example_is_compared_with_its_rivals(bench, tmp_path):
    done = bench("--quick", "--sections", "tabular", "--out", "out", "data=mnist_5k")
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "out" / "bench.json").read_text())
    lines = {one["name"]: one for one in results["sections"]["tabular"]["lines"]}
    ours, plain = lines["python -m trainer"], lines["Flax + Optax"]
    assert lines["trainer : Flax + Optax"]["median"] == ours["median"] / plain["median"] > 0
    for name in ("PyTorch, sliced by hand", "torch.compile"):
        left_out = lines[name]["left_out"]  # "" where PyTorch is installed
        assert left_out.startswith("PyTorch is not installed") or lines[name]["median"] > 0


@pytest.mark.parametrize("name", ["cnn", "transformer", "tabular", "flax_module"])
def test_the_rivals_of_an_example_have_its_layers(name):
    own = user_module.load("model.module", str(ROOT / "examples" / name / f"{name}.py"))
    rivals = runpy.run_path(str(ROOT / "examples" / name / "rivals.py"))
    options = user_module.options("", own, "Options", {})
    if hasattr(own, "load"):
        given = own.DataOptions(size=3000) if hasattr(own, "DataOptions") else {}
        examples = {field: array[:5] for field, array in own.load(given).train.items()}
    else:
        examples = {"image": np.zeros((5, 28, 28), np.uint8), "label": np.zeros(5, np.uint8)}
    one = {field: array[0] for field, array in examples.items()}
    weights = jax.eval_shape(partial(own.init, example=one, options=options), jax.random.key(0))
    sizes = [leaf.size for leaf in jax.tree.leaves(weights)]

    net = rivals["flax"](options and vars(options))
    keys = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
    with jax.numpy_rank_promotion("allow"):  # as flax needs it
        params = net.init(keys, examples)
        loss = net.apply(params, examples, rngs=keys)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sum(sizes)
    assert loss.shape == ()
    assert np.isfinite(loss)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sections", "data,speed"), "speed: use some of rivals, batch"),
        (("--rounds", "0"), "0: use a whole number"),
        (("--torch-python", "/nowhere/python"), "no such program"),
    ],
)
def test_a_mistyped_option_is_named(bench, arguments, message, tmp_path):
    done = bench(*arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())


def test_a_wrong_option_of_the_trainer_is_told(bench):
    done = bench("--quick", "--out", "out", "data.rot=nowhere")
    assert done.returncode == 69
    assert "data.rot is not an option: did you mean data.root?" in done.stderr


def test_a_rival_that_is_not_installed_is_left_out_with_the_remedy():
    bare = [sys.executable, "-S", "-c", BLOCKED]  # -S: no packages at all
    done = subprocess.run(bare, capture_output=True, text=True, cwd=ROOT / "scripts", timeout=240)
    assert done.returncode == 0, done.stderr
    assert "pip install torch==" in done.stdout


BLOCKED = """
import runpy, sys, types
sys.modules["numpy"] = types.ModuleType("numpy")  # comes with torch
sys.modules["numpy.typing"] = types.ModuleType("numpy.typing")
sys.argv = ["", "torch_loop.measure", '{"variant": "sliced"}']
runpy.run_module("benchmarks.workers", run_name="__main__")
"""


def test_idle_is_what_no_span_of_work_covers(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    from benchmarks.workers.parts import idle_share

    assert idle_share([(14.0, 20.0), (0.0, 10.0), (5.0, 12.0), (6.0, 8.0)]) == 2 / 20
    assert idle_share([(3.0, 4.0)]) == 0


def test_xla_knows_the_options_of_every_form_for_a_gpu(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    from benchmarks.workers.forms import AS_IT_IS, variants

    forms = variants("gpu")
    usual = forms.pop(AS_IT_IS)
    lowered = jax.jit(lambda x: x + x).lower(np.float32(1))
    for variant in forms.values():
        assert variant != usual
        lowered.compile(compiler_options=variant.options)  # raises for one that is not known
