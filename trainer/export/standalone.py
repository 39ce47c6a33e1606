"""Run this model with jax 0.8.2 or newer and flatbuffers: `python predict.py FILE`.

Numpy writes the file: FILE.npz holds an array (N, ...) for each input in model.json, FILE.npy that
of the only one.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax.export
import jax.numpy as jnp
import numpy as np

OLDEST_JAX = (0, 8, 2)  # older versions take a program of a newer one for one of 0 devices
DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
DTYPES |= {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}


def check(right: object, message: str) -> None:
    """Raise ValueError unless something is true."""
    if not right:
        raise ValueError(message)


def load_model(folder: Path) -> Callable[[Any], dict[str, Any]]:
    """Return a function: arrays (N, ...) by name, or the only one -> outputs (N, ...) by name."""
    oldest = ".".join(map(str, OLDEST_JAX))
    too_old = f"jax {jax.__version__}: the model needs jax {oldest} or newer"
    check(jax.__version_info__ >= OLDEST_JAX, too_old)
    index = json.loads((folder / "model.json").read_text())
    code, data = ((folder / f).read_bytes() for f in ("model.stablehlo", "weights.safetensors"))
    for name, content in (("model.stablehlo", code), ("weights.safetensors", data)):
        changed = f"{folder / name} was changed: its SHA-256 is not that in model.json"
        check(hashlib.sha256(content).hexdigest() == index["sha256"][name], changed)
    end = 8 + int.from_bytes(data[:8], "little")  # of the header, which follows its length
    weights = {}
    for name, array in json.loads(data[8:end]).items():
        first, last = (end + offset for offset in array["data_offsets"])
        dtype = np.dtype(DTYPES[array["dtype"]])
        weights[name] = np.frombuffer(data[first:last], dtype).reshape(array["shape"])
    program = jax.jit(jax.export.deserialize(bytearray(code)).call)

    def run(given: Any) -> dict[str, Any]:
        arrays = given if isinstance(given, Mapping) else {next(iter(index["inputs"])): given}
        categories, inputs = index.get("columns", {}).get("categories", {}), {}
        for name, spec in index["inputs"].items():
            array: Any = arrays.get(name)
            kinds = getattr(array, "dtype", bool), spec["dtype"]
            if all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
                array = array.astype(spec["dtype"])
            dtype, shape = getattr(array, "dtype", type(array).__name__), np.shape(array)
            expected = spec["dtype"], spec["shape"][1:]
            right = f"{expected[0]} ({', '.join(map(str, ('N', *expected[1])))}), N >= 1"
            fits = (str(dtype), list(shape[1:])) == expected and shape and shape[0]
            check(fits, f"{name} is {dtype} {shape}: give {right}")
            if name in categories:
                codes, last = np.asarray(array), len(categories[name]) - 1
                wrong = next(iter(codes[(codes < 0) | (codes > last)]), None)
                check(wrong is None, f"{name} has the code {wrong}: give 0 to {last}")
            inputs[name] = array
        outputs: dict[str, Any] = program(weights, inputs)
        return outputs

    return run


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    here = Path(__file__).parent
    try:
        # Opened here: numpy leaves a broken .npz file open.
        with Path(sys.argv[1]).open("rb") as file:
            outputs = load_model(here)(np.load(file))
    except (OSError, EOFError, ValueError, BadZipFile) as error:  # from numpy
        is_other = "pickle" in str(error)  # numpy's advice, to unpickle it, would run code in it
        no_array = f"{sys.argv[1]} is no array of numbers: convert it to one, with numpy.save"
        sys.exit(f"{no_array if is_other else error}\n{__doc__}")
    if "probabilities" in outputs and outputs["probabilities"].ndim == 2:
        classes = range(outputs["probabilities"].shape[-1])
        names = json.loads((here / "model.json").read_text()).get("class_names", classes)
        lines = [names[i] for i in np.asarray(outputs["probabilities"]).argmax(axis=-1)]
    else:
        lines = [f"{n}: {x.dtype} {x.shape}\n{np.asarray(x)}" for n, x in outputs.items()]
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:  # a reader that stops reading, such as `| head`, is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes again when it exits
