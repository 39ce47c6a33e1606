"""What a platform is compiled for, in this one place: XLA's options, and the form of the step.

The results are the same but for rounding. What each gave on a GPU is in docs/benchmarks.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from trainer.tracking.goodput import PhaseTimer

Options = dict[str, bool | int | str]

# The K steps of a dispatch become one CUDA graph, however short the program around the loop is (the
# least size). Else the host launches every kernel of every step, which takes longer than the
# kernels of a small model. The list is jax 0.11's own: others may leave the loop (WHILE) out.
# CONCURRENT runs kernels side by side that do not need each other; XLA's default is a queue.
GPU_OPTIONS: Options = {
    "xla_gpu_enable_command_buffer": (
        "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"
    ),
    "xla_gpu_graph_min_graph_size": 1,
    "xla_gpu_command_buffer_scheduling_mode": "CONCURRENT",
}


class Form(NamedTuple):
    """How the step is written down."""

    transpose_last: bool  # keep the last kernel as (classes, features) while steps run
    branch: bool  # drop a non-finite update by a branch; False: by selecting each weight
    unroll: int  # steps in the body of the loop over K


CPU = Form(transpose_last=True, branch=True, unroll=1)
GPU = Form(transpose_last=False, branch=False, unroll=4)


def form(platform: str, devices: int, virtual_shards: int | None) -> Form:
    """Return the form that is fastest.

    Args:
        platform: of the devices, as jax names it: "cpu", "gpu".
        devices: of the mesh; with several, the loop has one all-reduce in its body.
        virtual_shards: with them, one device and several have to have the same loop.
    """
    if platform != "gpu":
        return CPU
    return GPU if devices == 1 and virtual_shards is None else GPU._replace(unroll=1)


def options(platform: str, deterministic: bool) -> Options:
    """Return XLA's compile options for a program.

    Args:
        platform: of the devices, as jax names it: "cpu", "gpu".
        deterministic: use only kernels that give the same bits every time, and choose them without
            timing them: two processes, or a run and its restart, could choose differently.
    """
    if platform != "gpu":
        return {}
    if not deterministic:
        return GPU_OPTIONS
    return GPU_OPTIONS | {"xla_gpu_deterministic_ops": True, "xla_gpu_autotune_level": 0}


class Program:
    """A jitted function whose compilations are not mistaken for its running time."""

    def __init__(self, jitted: Any, timer: PhaseTimer) -> None:
        self._jitted = jitted
        self._timer = timer
        self._compiled: dict[tuple[tuple[int, ...], ...], Any] = {}

    def __call__(self, *args: Any) -> Any:
        """Call the function, compiling it first for shapes that are new."""
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(args))
        if shapes not in self._compiled:
            with self._timer.phase("compile"):
                self._compiled[shapes] = self._jitted.lower(*args).compile()
        return self._compiled[shapes](*args)
