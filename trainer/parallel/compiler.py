"""What programs are compiled for a platform: XLA's options, and how the step is written.

The results are the same but for rounding. What each choice gains on a GPU is in
docs/benchmarks.md.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax

from trainer.tracking.goodput import PhaseTimer

XlaOptions = dict[str, bool | int | str]

# The K steps of a dispatch become one CUDA graph, however short the program around the loop is (the
# least size). Else the host launches every kernel of every step, which takes longer than the
# kernels of a small model. The list is jax 0.11's own: others may leave the loop (WHILE) out.
# CONCURRENT runs kernels side by side that do not need each other; XLA's default is a queue.
GPU_OPTIONS: XlaOptions = {
    "xla_gpu_enable_command_buffer": (
        "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"
    ),
    "xla_gpu_graph_min_graph_size": 1,
    "xla_gpu_command_buffer_scheduling_mode": "CONCURRENT",
}


class StepOptions(NamedTuple):
    """How the training step is written; the results are the same but for rounding."""

    layout: bool  # keep the weights in the task's own layout while steps run
    branch: bool  # drop a non-finite update by a branch; False: by selecting each weight
    unroll: int  # steps in the body of the loop over K
    counted: bool  # whether the compiler may know K: on a CPU that changes bits
    packed: bool  # send the parts of a shared state as one array


CPU_STEP = StepOptions(layout=True, branch=True, unroll=1, counted=False, packed=True)
GPU_STEP = StepOptions(layout=False, branch=False, unroll=4, counted=True, packed=False)


def step_options(platform: str, devices: int, virtual_shards: int | None) -> StepOptions:
    """Return the fastest way to write the step.

    Args:
        platform: of the devices, as jax names it: "cpu", "gpu".
        devices: number of devices in the mesh.
        virtual_shards: parallel.virtual_shards.
    """
    if platform != "gpu":
        return CPU_STEP
    # Several devices: one all-reduce in the body of the loop. Virtual shards: one device needs the
    # same loop as several, for the same bits.
    return GPU_STEP if devices == 1 and virtual_shards is None else GPU_STEP._replace(unroll=1)


def cannot_multiply(
    platform: str, precision: str | None, cpu: Path = Path("/proc/cpuinfo")
) -> str | None:
    """Return why these devices do not have a model.precision; None if they do.

    A CPU without the instructions for bfloat16 would take ten times as long as in float32.
    """
    if platform != "cpu" or precision in (None, "float32"):
        return None
    if precision != "bfloat16":
        return "a CPU multiplies float32 and bfloat16 only"
    words = {*cpu.read_text().split()} if cpu.exists() else set()
    has = words & {"avx512_bf16", "amx_bf16", "bf16"}  # the last is that of aarch64
    return None if has else "this CPU has no instructions for it (avx512_bf16, amx_bf16)"


def xla_options(
    platform: str, deterministic: bool, remat: bool = False, overlap: bool = False
) -> XlaOptions:
    """Return XLA's compile options for a program.

    Args:
        platform: of the devices, as jax names it: "cpu", "gpu".
        deterministic: use only kernels that give the same bits every time, and choose them without
            timing them: two processes, or a run and its restart, could choose differently.
        remat: whether the program computes activations again, or gathers weights part by part.
        overlap: whether it sends arrays that it can send while it computes others.
    """
    if platform != "gpu":
        # Else XLA's CPU drops the barriers early. Then what is computed again is the same as
        # before, and it keeps that; and it gathers all weights first.
        return {"xla_disable_hlo_passes": "cse_barrier_expander"} if remat else {}
    options = GPU_OPTIONS | ({"xla_gpu_enable_latency_hiding_scheduler": True} if overlap else {})
    if not deterministic:
        return options
    return options | {"xla_gpu_deterministic_ops": True, "xla_gpu_autotune_level": 0}


class CompiledFunction:
    """A jitted function, compiled ahead of time once for each set of argument shapes.

    Compiling counts as the phase "compile" of the timer, not as time of the first call.
    """

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
