"""What XLA is asked for beyond its defaults, for every platform in this one place.

A CPU needs nothing. What each option gave on a GPU belongs in docs/benchmarks.md.
"""

from __future__ import annotations

Options = dict[str, bool | int | str]

# The K steps of a dispatch become one CUDA graph: the loop itself (WHILE) and the branch of the
# non-finite guard (CONDITIONAL) beside what XLA records anyway. Without it the host launches every
# kernel of every step, which takes longer than the kernels of a small model.
COMMAND_BUFFERS = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"


def options(platform: str, deterministic: bool) -> Options:
    """Return XLA's compile options for a program.

    Args:
        platform: of the devices, as jax names it: "cpu", "gpu".
        deterministic: use only kernels that give the same bits every time, and choose them without
            timing them: two processes, or a run and its restart, could choose differently.
    """
    if platform != "gpu":
        return {}
    found: Options = {"xla_gpu_enable_command_buffer": COMMAND_BUFFERS}
    if deterministic:
        found |= {"xla_gpu_deterministic_ops": True, "xla_gpu_autotune_level": 0}
    return found
