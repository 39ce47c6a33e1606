"""What a compiled program sends between devices, read out of its HLO text.

`python -m support.traffic N ...` prints it as JSON for a step on each number of devices. They are
simulated and nothing is run: XLA_FLAGS has to name as many.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from trainer.config.compose import compose
from trainer.data.dataset import Dataset, Superbatch
from trainer.parallel import mesh as meshes
from trainer.parallel import step
from trainer.train import build

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "reduce-scatter",
)
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}
# `%name = RESULT all-reduce(...)`; RESULT is a shape or, of several arrays, a tuple of shapes.
_RESULT, _NAME = r"(?P<result>\(.*?\)|\S+)", f"(?P<name>{'|'.join(COLLECTIVES)})"
_INSTRUCTION = re.compile(rf"^\s*(?:ROOT )?%?\S+ = {_RESULT} {_NAME}(?:-start)?\(", re.MULTILINE)
_SHAPE = re.compile(r"\b(" + "|".join(_BYTES) + r")\[([\d,]*)\]")


class Traffic(NamedTuple):
    """What the program's text holds; a loop's body counts once, so this is one step."""

    collectives: dict[str, int]  # kind -> how many; an all-reduce of a tuple is one
    arrays: list[int]  # elements of each array that they combine
    bytes: int  # of all of them


def traffic(text: str) -> Traffic:
    """Count the collectives in the HLO text of a compiled program, and what they carry.

    Where a collective is split into start and done, the result of the start is what counts.
    """
    kinds: Counter[str] = Counter()
    arrays: list[int] = []
    size = 0
    for match in _INSTRUCTION.finditer(text):
        kinds[match["name"]] += 1
        for dtype, dims in _SHAPE.findall(match["result"]):
            count = 1
            for dim in filter(None, dims.split(",")):
                count *= int(dim)
            arrays.append(count)
            size += count * _BYTES[dtype]
    return Traffic(dict(kinds), arrays, size)


def _abstract(devices: int, batch_size: int) -> tuple[step.TrainStep, Any, Any]:
    """Return the step for some devices, and the shapes of a state and a feed of two steps.

    For MNIST's shape; to compile ahead of time what is never run.
    """
    k, image = 2, (28, 28)
    config = compose(
        [
            "+experiment=mlp",
            f"train.global_batch_size={batch_size}",
            f"train.steps_per_dispatch={k}",
        ]
    )[0].config
    zero = np.uint8(0)
    shapes = {"image": (60_000, *image), "label": (60_000,)}
    split = {field: np.broadcast_to(zero, shape) for field, shape in shapes.items()}
    mesh = meshes.make_mesh(devices)
    programs = build.make_programs(config, Dataset("empty", split, split), mesh)
    rows, whole = meshes.batched(mesh), meshes.replicated(mesh)

    def array(dtype: Any, *dims: int, sharding: Any = rows) -> Any:
        return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)

    state = jax.tree.map(
        lambda x: array(x.dtype, *x.shape, sharding=whole),
        jax.eval_shape(partial(step.new_state, programs.task, programs.update), jax.random.key(0)),
    )
    images, labels = array(np.uint8, k, batch_size, *image), array(np.uint8, k, batch_size)
    lrs, steps = array(np.float32, k, sharding=whole), array(np.int32, k, sharding=whole)
    batch = Superbatch({"image": images, "label": labels}, labels)
    stop = array(np.uint8, k, devices)
    return programs.train_step, state, step.DispatchInputs(batch, stop, lrs, steps)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # also on a machine with GPUs
    counts = {}
    for devices in map(int, sys.argv[1:]):
        train_step, state, feed = _abstract(devices, 64 * devices)
        sent = traffic(train_step.lower(state, feed).compile().as_text())
        weights = sum(x.size for x in jax.tree.leaves(state.weights))
        counts[devices] = {**sent._asdict(), "weights": weights}
    print(json.dumps(counts))
