"""`python -m trainer plan` against runs that are here: memory within a tenth."""

import json
import math
import os
from pathlib import Path

import jax
import pytest
from support import idx_files
from support.in_process import train
from support.program import CACHE

from trainer.checkpoint import load_model
from trainer.job.errors import ConfigError
from trainer.job.signals import StopRequest
from trainer.parallel.compiler import CompiledFunction
from trainer.parallel.step import TrainState
from trainer.plan import command

ROOT = Path(__file__).parents[2]
CLOSE = 0.1
MODELS = {
    "mlp": ("+experiment=mlp", "data=idx"),
    "wide": ("+experiment=mlp", "data=idx", "model.hidden_sizes=[4096,4096]"),
    "transformer": ("+experiment=transformer", "data.options.size=20000", "model.options.layers=1"),
    "cnn": ("+experiment=cnn", "data=idx"),
}
RUN = (
    "train.global_batch_size=32",
    "train.steps_per_dispatch=2",
    "train.limit_steps=4",
    "train.eval_batch_size=32",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return idx_files.write(tmp_path_factory.mktemp("images"), 300, 60)


def options_of(model, images, monkeypatch):
    if model in ("transformer", "cnn"):
        monkeypatch.setenv("TRAINER_CONFIG_DIR", str(ROOT / "examples" / model))
    for name in ("JAX_NUM_CPU_DEVICES", "JAX_PLATFORMS"):  # the command sets them
        monkeypatch.setenv(name, os.environ.get(name, ""))
    data = () if model == "transformer" else (f"data.root={images}", "data.num_classes=10")
    return (*MODELS[model], *data, *RUN)


@pytest.fixture(autouse=True)
def _cache(monkeypatch):
    monkeypatch.setenv("TRAINER_CACHE_DIR", str(CACHE))


def plan(capsys, *arguments):
    assert command.main([*arguments, "--json"], StopRequest()) == 0
    return json.loads(capsys.readouterr().out)


def on_first_device(arrays):
    """Return their bytes there."""
    here = [x for x in arrays if jax.devices()[0] in x.sharding.device_set]
    return sum(x.itemsize * math.prod(x.sharding.shard_shape(x.shape)) for x in here)


def live():
    return on_first_device(jax.live_arrays())


# docs/scaling.md has all four models, each on 1, 2 and 4 devices, and with each shard_state.
@pytest.mark.parametrize(
    ("model", "devices", "shared"),
    [
        *(("mlp", 1, "none"), ("mlp", 4, "none"), ("mlp", 4, "all")),
        *(("wide", 4, "none"), ("transformer", 4, "none"), ("cnn", 2, "none")),
    ],
)
def test_the_memory_is_that_of_a_run(model, devices, shared, images, monkeypatch, capsys, tmp_path):
    options = (*options_of(model, images, monkeypatch), f"parallel.shard_state={shared}")
    planned = plan(capsys, f"--gpus-per-node={devices}", *options)["device_memory"]

    call, before, arrays, splits, temporary = CompiledFunction.__call__, live(), [], {}, {}

    def watched(self, state, batch=None):
        if batch is None:  # the copy for a checkpoint, which is planned apart
            return call(self, state)
        result = call(self, state, batch)
        if isinstance(state, TrainState):
            kind = "temporary"
            arrays.append(live() - before)
        elif batch.mask.ndim == 1:
            kind = "norms"
        else:
            kind = "evaluation"
            splits[id(batch.mask)] = on_first_device(jax.tree.leaves(batch))
        for compiled in self._compiled.values():
            plan = compiled.memory_analysis()
            results = plan.output_size_in_bytes - plan.alias_size_in_bytes
            size = plan.temp_size_in_bytes + results
            temporary[kind] = max(size, temporary.get(kind, 0))
        return result

    monkeypatch.setattr(CompiledFunction, "__call__", watched)
    run = ("run.dir=run", "train.epochs=1", "checkpoint.every_epochs=null")
    done = train(tmp_path, *options, *run, f"parallel.devices={devices}")
    assert done.returncode == 0, done.stderr
    assert planned["state"] + planned["batches"] == pytest.approx(max(arrays), rel=CLOSE)
    assert planned["splits"] == pytest.approx(sum(splits.values()), rel=CLOSE)
    if shared == "all":  # the host measures the norms, of one gathered array after the other
        assert "norms" not in temporary
        weights = load_model.load(tmp_path / "run", None, print).weights
        temporary["norms"] = max(leaf.nbytes for leaf in jax.tree.leaves(weights))
    assert temporary.keys() == {"temporary", "evaluation", "norms"}
    for kind, size in temporary.items():
        assert planned[kind] == pytest.approx(size, rel=CLOSE), kind
    training = max(arrays) + sum(splits.values()) + max(temporary.values())
    total = max(training, planned["state"] + planned["initial"])
    assert planned["total"] == pytest.approx(total, rel=CLOSE)


@pytest.mark.parametrize(("shared", "optim"), [("none", "sgd"), ("none", "muon"), ("all", "sgd")])
def test_what_does_not_fit_is_refused(shared, optim, images, monkeypatch, capsys):
    options = (*options_of("wide", images, monkeypatch), f"parallel.shard_state={shared}")
    options = (*options, f"optim={optim}")
    arguments = ("--gpus-per-node=8", "--device-memory=360MB", *options)
    if shared == "all":
        planned = plan(capsys, *arguments)
        assert {one["kind"] for one in planned["collectives"]} == {
            *("all-gather", "reduce-scatter", "all-reduce")
        }
        assert planned["device_memory"]["total"] < planned["device_memory_there"] == 270e6
        return
    with pytest.raises(ConfigError) as error:
        command.main([*arguments], StopRequest())
    share = "" if optim == "muon" else "parallel.shard_state=optimizer or all, "
    assert str(error.value).endswith(
        "and has 270 MB: JAX takes 75% of 360 MB (by default): "
        f"use {share}a smaller model, or devices with more memory"
    )
    assert "weights" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device-memory=80",), "plan --help"),
        (("--device=B7",), "plan --help"),
        (("--device=H100",), "--device=H100: the job has no GPUs: give their number"),
        (("--field=image=uint8",), "--field=image=uint8: use NAME=DTYPE[SIZE,...]"),
        (("--field=image=text[2]",), "--field=image=text[2]: use NAME=DTYPE[SIZE,...]"),
        (("--nodes=3",), "train.global_batch_size=32 does not divide over 3 devices"),
        (("--gpus-per-node=8", "--tasks-per-node=3"), "--tasks-per-node=3 does not divide"),
    ],
)
def test_a_wrong_option_is_refused(arguments, message, images, monkeypatch):
    options = options_of("mlp", images, monkeypatch)
    with pytest.raises(ConfigError) as error:
        command.main([*arguments, *options], StopRequest())
    assert message in str(error.value)


@pytest.mark.parametrize("fields", [(), ("image=uint8[28,28]", "label=uint8[]")])
def test_the_shapes_of_data_that_are_not_here(fields, images, monkeypatch, capsys):
    """Those of MNIST are known; others are described."""
    monkeypatch.setenv("TRAINER_CACHE_DIR", str(images / "empty"))
    here = plan(capsys, *options_of("mlp", images, monkeypatch))
    monkeypatch.setenv("TRAINER_CACHE_DIR", str(images / "empty"))
    away = (*RUN, "data=arrays" if fields else "data=mnist", "data.num_classes=10")
    away += ("data.root=/not/here",) if fields else ()
    described = [word for field in fields for word in ("--field", field)]
    planned = plan(capsys, *described, "+experiment=mlp", *away)
    for name in ("weights", "optimizer", "batches", "temporary"):
        assert planned["device_memory"][name] == here["device_memory"][name]
