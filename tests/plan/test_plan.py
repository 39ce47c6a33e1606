"""`python -m trainer plan` against runs that are here: memory within a tenth."""

import json
import math
import os
from pathlib import Path

import jax
import pytest
from conftest import CACHE
from support import idx_files
from support.in_process import train

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


# All four models, each on 1, 2 and 4 devices, were measured for docs/scaling.md; these take 20 s.
@pytest.mark.parametrize(
    ("model", "devices"),
    [
        *((model, devices) for model in ("mlp", "wide") for devices in (1, 2, 4)),
        *(("transformer", 4), ("cnn", 2)),
    ],
)
def test_the_memory_is_that_of_a_run(model, devices, images, monkeypatch, capsys, tmp_path):
    options = options_of(model, images, monkeypatch)
    planned = plan(capsys, f"--gpus-per-node={devices}", *options)["device_memory"]

    call, before, arrays, splits, temporary = CompiledFunction.__call__, live(), [], {}, {}

    def watched(self, state, batch):
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
    assert temporary.keys() == {"temporary", "evaluation", "norms"}
    for kind, size in temporary.items():
        assert planned[kind] == pytest.approx(size, rel=CLOSE), kind
    total = max(arrays) + sum(splits.values()) + max(temporary.values())
    assert planned["total"] == pytest.approx(total, rel=CLOSE)
