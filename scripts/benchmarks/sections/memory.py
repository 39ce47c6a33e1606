"""Memory of the host and of the device."""

from functools import partial

from benchmarks.bench import Bench
from benchmarks.figures import Section, line
from benchmarks.sections import rivals

TITLE = "Memory"
MIB = 1 / (1 << 20)
PARTS = {
    "arguments": "state and one dispatch's data, which the next two lie beside",
    "temporary": "activations and gradients, by the compiler's plan",
    "peak": "as the device counted it",
}


def measure(bench: Bench) -> Section:
    """Note the peak memory of processes, and what the compiler plans for the program."""
    sizes = [64] if bench.quick else [64, 1024, 4096]
    jobs = {
        f"trainer, batch {size}": partial(
            bench.train, "train.epochs=1", f"train.global_batch_size={size}"
        )
        for size in sizes
    }
    small = rivals.jobs(bench, 64)
    jobs |= {f"{name}, batch 64": small[name] for name in (rivals.LOADER, rivals.FLAX)}
    hosts = bench.interleave(jobs, rounds=1)  # memory does not vary with the load
    shared = {"arrays": bench.arrays, "k": rivals.OWN_K, "overrides": bench.overrides}
    programs = {
        f"batch {size}, K={rivals.OWN_K}": partial(
            bench.worker, "program.memory", batch_size=size, **shared
        )
        for size in sizes
    }
    includes = "largest resident memory of the process"
    lines = [
        line(name, includes, "MiB", results, "peak_bytes", scale=MIB)
        for name, results in hosts.items()
    ]
    silent = True
    for name, results in bench.interleave(programs, rounds=1).items():
        for part, includes in PARTS.items():
            known = [result for result in results if result.get(part, 0) is not None]
            if known:
                text = f"device, {name}: {part}"
                lines.append(line(text, includes, "MiB", known, part, scale=MIB))
                silent &= part != "peak"
    remarks = ["This device does not count the memory in use."] if silent else []
    return Section(TITLE, lines, remarks)
