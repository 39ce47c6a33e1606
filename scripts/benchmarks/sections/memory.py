"""Memory of the host and of the device."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import Bench
from benchmarks.lines import Section, line
from benchmarks.sections import rivals

TITLE = "Memory"
MIB = 1 / (1 << 20)


def measure(bench: Bench) -> Section:
    """Note the largest resident memory of processes, and the compiler's account of the program."""
    sizes = [64] if bench.quick else [64, 1024, 4096]
    once = 1  # memory does not vary with the load
    small = rivals.jobs(bench, 64)
    jobs = {
        f"trainer, batch {size}": partial(
            bench.train, "train.epochs=1", f"train.global_batch_size={size}"
        )
        for size in sizes
    }
    jobs |= {f"{name}, batch 64": small[name] for name in (rivals.LOADER, rivals.FLAX)}
    hosts = bench.interleave(jobs, rounds=once)
    programs = bench.interleave(
        {
            f"batch {size}, K={rivals.OWN_K}": partial(
                bench.worker,
                "memory",
                arrays=bench.arrays,
                batch_size=size,
                k=rivals.OWN_K,
                overrides=bench.overrides,
            )
            for size in sizes
        },
        rounds=once,
    )
    lines = [
        line(
            name, "largest resident memory of the process", "MiB", results, "peak_bytes", scale=MIB
        )
        for name, results in hosts.items()
    ]
    for name, results in programs.items():
        for part, includes in (
            ("arguments", "state and one dispatch's data, which the next two lie beside"),
            ("temporary", "activations and gradients, by the compiler's plan"),
        ):
            lines.append(line(f"device, {name}: {part}", includes, "MiB", results, part, scale=MIB))
        counted = [r for r in results if r.get("peak") is not None]
        if counted:
            lines.append(
                line(
                    f"device, {name}: peak",
                    "as the device counted it",
                    "MiB",
                    counted,
                    "peak",
                    scale=MIB,
                )
            )
    silent = not any("peak" in one.name for one in lines)
    remarks = ["This device does not count the memory in use."] if silent else []
    return Section(TITLE, lines, remarks, {})
