"""The trainer's own program in other forms and with other options of the compiler, all in turn."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import answer, own
from trainer.parallel import compiler, step

AS_IT_IS = "as it is"


class Variant(NamedTuple):
    """What a program is compiled from."""

    form: compiler.Form
    options: compiler.Options
    precision: str = "float32"


def variants(platform: str) -> dict[str, Variant]:
    """Return the program as the trainer compiles it, and what differs from it in one thing."""
    usual = Variant(
        compiler.form(platform, 1, None), compiler.options(platform, deterministic=True)
    )
    if platform == "cpu":
        return {AS_IT_IS: usual, "in the form for a GPU": usual._replace(form=compiler.GPU)}

    def form(**changes: Any) -> Variant:
        return usual._replace(form=usual.form._replace(**changes))

    def option(value: str, name: str) -> Variant:
        return usual._replace(options=usual.options | {f"xla_gpu_{name}": value})

    found = {
        AS_IT_IS: usual,
        "kernels one by one": option("SERIALIZE", "command_buffer_scheduling_mode"),
        "no CUDA graph": option("", "enable_command_buffer"),
        "one step in the loop's body": form(unroll=1),
        "a branch for the guard": form(branch=True),
        "the last kernel transposed": form(transpose_last=True),
        "tf32": usual._replace(precision="tf32"),
        "bfloat16": usual._replace(precision="bfloat16"),
    }
    timed = compiler.options(platform, deterministic=False)
    for name, precision in (("", "float32"), (", tf32", "tf32"), (", bfloat16", "bfloat16")):
        found[f"not deterministic{name}"] = Variant(usual.form, timed, precision)
    return found


def measure(
    arrays: str, batch_size: int, k: int, dispatches: int, overrides: list[str]
) -> dict[str, Any]:
    """Return {"seconds_per_step": {variant: the median over the dispatches}}.

    The arguments are those of own_step. Variants that the compiler refuses are in "refused".
    """
    config = own.configuration(*overrides, f"train.global_batch_size={batch_size}")
    dataset = own.load_arrays(arrays)
    mesh, made = own.make(config, dataset, 1)
    feeds = own.feed(mesh, own.first_batches(dataset, k, batch_size))
    first = own.first_state(made, mesh)
    optimizer = step.Optimizer(config.optim.momentum, config.optim.nesterov, False)

    def lowered(variant: Variant) -> Any:
        objective = made.objective._replace(precision=variant.precision)
        jitted = step.make_train_step(
            objective,
            optimizer,
            mesh,
            "shard_map",
            form=variant.form,
            compiler_options=variant.options,
        )
        return jitted.lower(first, feeds)

    asked = variants(jax.devices()[0].platform)
    traced = {name: lowered(variant) for name, variant in asked.items()}
    programs, refused = {}, {}
    with ThreadPoolExecutor() as pool:
        compiled = {name: pool.submit(one.compile) for name, one in traced.items()}
        for name, future in compiled.items():
            try:
                programs[name] = future.result()
            except jax.errors.JaxRuntimeError as error:
                if name == AS_IT_IS:
                    raise
                refused[name] = str(error).splitlines()[0]
    copy = partial(jax.tree.map, jnp.copy)
    found = {
        name: float(np.median(own.seconds_per_step(program, copy(first), feeds, dispatches)))
        for name, program in programs.items()
    }
    return {"seconds_per_step": found, "refused": refused}


if __name__ == "__main__":
    answer.serve(measure)
