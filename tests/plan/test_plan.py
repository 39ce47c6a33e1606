"""`python -m trainer plan` against runs that are here: memory within a tenth."""

import json
import math
import os
from pathlib import Path

import jax
import pytest
from support.in_process import train

from trainer.job.signals import StopRequest
from trainer.parallel.compiler import CompiledFunction
from trainer.parallel.step import TrainState
from trainer.plan import command

ROOT = Path(__file__).parents[2]
CLOSE = 0.1
DIGITS = ("+experiment=mlp", "data=mnist_5k")
MODELS = {
    "mlp": DIGITS,
    "wide": (*DIGITS, "model.hidden_sizes=[4096,4096]"),
    "transformer": ("+experiment=transformer",),
    "cnn": ("+experiment=cnn", "data=mnist_5k"),
}
RUN = ("train.global_batch_size=32", "train.steps_per_dispatch=4", "train.limit_steps=12")


def options_of(model, monkeypatch):
    if model in ("transformer", "cnn"):
        monkeypatch.setenv("TRAINER_CONFIG_DIR", str(ROOT / "examples" / model))
    for name in ("JAX_NUM_CPU_DEVICES", "JAX_PLATFORMS"):  # the command sets them
        monkeypatch.setenv(name, os.environ.get(name, ""))
    return (*MODELS[model], *RUN)


def plan(capsys, *arguments):
    assert command.main([*arguments, "--json"], StopRequest()) == 0
    return json.loads(capsys.readouterr().out)


def live():
    """Return the bytes of all arrays on the first device."""
    first = jax.devices()[0]
    arrays = [x for x in jax.live_arrays() if first in x.sharding.device_set]
    return sum(x.itemsize * math.prod(x.sharding.shard_shape(x.shape)) for x in arrays)


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("model", MODELS)
def test_the_memory_is_that_of_a_run(model, devices, monkeypatch, capsys, tmp_path):
    options = options_of(model, monkeypatch)
    planned = plan(capsys, f"--gpus-per-node={devices}", *options)["device_memory"]

    call, before, seen = CompiledFunction.__call__, live(), []

    def watched(self, state, *rest):
        result = call(self, state, *rest)
        if isinstance(state, TrainState):
            (compiled,) = self._compiled.values()
            seen.append((live() - before, compiled.memory_analysis()))
        return result

    monkeypatch.setattr(CompiledFunction, "__call__", watched)
    done = train(
        tmp_path,
        *options,
        "run.dir=run",
        "train.epochs=2",
        f"parallel.devices={devices}",
        "checkpoint.every_epochs=null",
    )
    assert done.returncode == 0, done.stderr
    print(planned, [s[0] for s in seen], seen[0][1])
