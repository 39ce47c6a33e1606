"""The trainer's own program in other forms and with other options of the compiler, all in turn."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.workers import program
from trainer.parallel import compiler, step
from trainer.tasks import make as tasks

AS_IT_IS = "as it is"


class Variant(NamedTuple):
    """What a program is compiled from."""

    form: compiler.StepOptions
    options: compiler.XlaOptions
    precision: str = "float32"


def variants(platform: str) -> dict[str, Variant]:
    """Return the program as the trainer compiles it, and others that differ in one thing."""
    usual = Variant(
        compiler.step_options(platform, 1, None), compiler.xla_options(platform, deterministic=True)
    )
    if platform == "cpu":
        return {AS_IT_IS: usual, "in the form for a GPU": usual._replace(form=compiler.GPU_STEP)}

    def form(**changes: Any) -> Variant:
        return usual._replace(form=usual.form._replace(**changes))

    def option(name: str, value: str) -> Variant:
        return usual._replace(options=usual.options | {f"xla_gpu_{name}": value})

    fast = usual._replace(options=compiler.xla_options(platform, deterministic=False))
    return {
        AS_IT_IS: usual,
        "kernels one by one": option("command_buffer_scheduling_mode", "SERIALIZE"),
        "no CUDA graph": option("enable_command_buffer", ""),
        "one step in the loop's body": form(unroll=1),
        "a branch for the guard": form(branch=True),
        "the last kernel transposed": form(layout=True),
        "tf32": usual._replace(precision="tf32"),
        "bfloat16": usual._replace(precision="bfloat16"),
        "not deterministic": fast,
        "not deterministic, tf32": fast._replace(precision="tf32"),
        "not deterministic, bfloat16": fast._replace(precision="bfloat16"),
    }


def measure(dispatches: int, **arguments: Any) -> dict[str, Any]:
    """Return {"seconds_per_step": {variant: the median over the dispatches}}.

    The arguments are those of program.speed. Variants that the compiler refuses are in "refused".
    """
    config, dataset, mesh, programs, state, feed = program.prepare(**arguments)

    def lowered(variant: Variant) -> Any:
        model = dataclasses.replace(config.model, precision=variant.precision)
        jitted = step.make_train_step(
            tasks.make(model, config.data, dataset)[0],
            programs.update,
            mesh,
            "shard_map",
            options=variant.form,
            xla_options=variant.options,
        )
        return jitted.lower(state, feed)

    traced = {name: lowered(one) for name, one in variants(jax.devices()[0].platform).items()}
    seconds, refused = {}, {}
    copy = partial(jax.tree.map, jnp.copy)  # the program takes its state's memory over
    with ThreadPoolExecutor() as pool:
        futures = {name: pool.submit(one.compile) for name, one in traced.items()}
    for name, future in futures.items():
        try:
            compiled = future.result()
        except jax.errors.JaxRuntimeError as error:
            if name == AS_IT_IS:
                raise
            refused[name] = str(error).splitlines()[0]
            continue
        times = program.seconds_per_step(compiled, copy(state), feed, dispatches)
        seconds[name] = float(np.median(times))
    return {"seconds_per_step": seconds, "refused": refused}
