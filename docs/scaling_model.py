"""The model of docs/scaling.md: its tables and its plot, from assumed constants of GPUs.

A step is compute, then one all-reduce of the gradients, then the same update everywhere; nothing
overlaps within a step. Data for the next steps is read and copied meanwhile, so the input only
shows where it takes longer than the step. Seconds, bytes, bytes a second throughout.

Tables stand in the document between `<!-- table NAME -->` and `<!-- end -->`. To renew them all:

    PYTHONPATH=scripts:. .venv/bin/python docs/scaling_model.py
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import scaling_shared
from benchmarks.scaling import FLOAT, MLP, Net

from trainer.plan import scaling
from trainer.plan.command import seconds
from trainer.plan.scaling import MACHINES, Machine, Step, ring, tree

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT, IMAGE = ROOT / "docs" / "scaling.md", ROOT / "docs" / "images" / "scaling.png"


def all_reduce(message: float, devices: int, machine: Machine) -> float:
    """Return the seconds of an all-reduce over hosts that are full, but for a single one."""
    inside = min(devices, machine.devices_per_host)
    return scaling.collective("all-reduce", message, inside, -(-devices // inside), machine)


def step(net: Net, local_batch: int, devices: int, machine: Machine) -> Step:
    """Predict a step on some devices, each with `local_batch` examples."""
    weights, operations = net.weights * FLOAT, net.flops(local_batch)
    computing = scaling.compute(operations, weights, machine, machine.flops)
    reducing = all_reduce(net.message, devices, machine)
    return scaling.step(computing, reducing, devices, local_batch, net.sizes[0], machine)


def efficiency(net: Net, local_batch: int, devices: int, machine: Machine) -> float:
    """Return the share of a step's time that is compute.

    That is the speed of p devices with a p times larger batch, over p times the speed of one that
    never waits for data.
    """
    whole = step(net, local_batch, devices, machine)
    return whole.compute / whole.seconds


def best_count(net: Net, global_batch: int, counts: Sequence[int], machine: Machine) -> int:
    """Return the count of devices that is fastest for a global batch that stays as it is."""
    fitting = [p for p in counts if p <= global_batch]
    return min(fitting, key=lambda p: step(net, global_batch // p, p, machine).seconds)


def least_local_batch(net: Net, devices: int, machine: Machine, wanted: float) -> int | None:
    """Return the least power of two, up to 65,536 examples a device, that is efficient enough."""
    sizes = (2**n for n in range(17))
    return next((b for b in sizes if efficiency(net, b, devices, machine) >= wanted), None)


def checkpoint(net: Net, machine: Machine) -> tuple[float, float]:
    """Return the seconds that a save holds training up, and those of writing in the background.

    The state is read and written once more, on the device.
    """
    return 2 * net.state / machine.memory, net.state / machine.disk


GPUS = MACHINES["H100"]
RESIDENT = GPUS._replace(input_rate=math.inf, copy=math.inf)  # nothing is streamed
COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
NETS = {
    "784-512-512-10": MLP,
    "784-4096-4096-10": Net((784, 4096, 4096, 10)),
    "784-16384-16384-10": Net((784, 16384, 16384, 10)),
}
LOCAL_BATCHES = (64, 512, 4096)
GLOBAL_BATCHES = (1024, 8192, 65536)

Table = list[tuple[str, ...]]


def steps() -> Table:
    """What a step of this MLP consists of, by number of GPUs, with 64 examples on each."""
    table: Table = [("GPUs", "compute", "all-reduce", "straggler", "input", "step", "efficiency")]
    for p in (1, *COUNTS):
        whole = step(MLP, 64, p, GPUS)
        share = efficiency(MLP, 64, p, GPUS)
        table.append((f"{p:,}", *map(seconds, (*whole, whole.seconds)), f"{share:.0%}"))
    return table


def ways() -> Table:
    """The all-reduce of this MLP between hosts, by ring and by tree."""
    part = MLP.message / GPUS.devices_per_host
    table: Table = [("hosts of 8 GPUs", "ring", "tree")]
    for p in COUNTS[1:]:
        hosts = p // GPUS.devices_per_host
        both = (ring(part, hosts, GPUS.network), tree(part, hosts, GPUS.network))
        table.append((f"{hosts:,}", *map(seconds, both)))
    return table


def cases() -> dict[str, tuple[Net, Machine]]:
    """All networks; and the small one without a stream, for which it is too fast."""
    streamed = {name: (net, GPUS) for name, net in NETS.items()}
    return {"784-512-512-10, data kept on the GPU": (MLP, RESIDENT)} | streamed


def efficiencies() -> Table:
    """Efficiency of every network with every local batch size."""
    counts = (1, 8, 64, 512, 4096)
    table: Table = [("network", "examples a GPU", *(f"{p:,} GPU{'s' * (p > 1)}" for p in counts))]
    for name, (net, machine) in cases().items():
        for batch in LOCAL_BATCHES:
            shares = (efficiency(net, batch, p, machine) for p in counts)
            table.append((name, f"{batch:,}", *(f"{share:.0%}" for share in shares)))
    return table


def best() -> Table:
    """The number of GPUs that is fastest where the global batch may not grow."""
    table: Table = [
        ("network", "global batch", "fastest on", "step there", "step on one GPU", "gain")
    ]
    for name, (net, machine) in cases().items():
        for batch in GLOBAL_BATCHES:
            p = best_count(net, batch, (1, 2, 4, *COUNTS), machine)
            there = step(net, batch // p, p, machine).seconds
            alone = step(net, batch, 1, machine).seconds
            row = (f"{p:,}", seconds(there), seconds(alone), f"{alone / there:.1f} x")
            table.append((name, f"{batch:,}", *row))
    return table


def enough() -> Table:
    """Examples that each GPU needs for an efficiency."""
    wanted = [(share, p) for share in (0.5, 0.8) for p in (8, 64, 4096)]
    table: Table = [("network", *(f"{share:.0%} on {p:,}" for share, p in wanted))]
    for name, (net, machine) in cases().items():
        sizes = (least_local_batch(net, p, machine, share) for share, p in wanted)
        table.append((name, *("never" if n is None else f"{n:,}" for n in sizes)))
    return table


def feeding() -> Table:
    """What each GPU takes in if it never waits, and what saving costs."""
    table: Table = [
        (
            "network",
            "images/s a GPU, batch 64",
            "batch 4,096",
            "state",
            "a save holds up",
            "written in",
            "save at most every",
        )
    ]
    for name, net in NETS.items():
        rates = (b / step(net, b, 8, RESIDENT).seconds / 1e6 for b in (64, 4096))
        held, written = checkpoint(net, GPUS)
        table.append(
            (
                name,
                *(f"{rate:,.2f} M" for rate in rates),
                f"{net.state / 1e6:,.0f} MB",
                seconds(held),
                seconds(written),
                seconds(max(written, 100 * held)),
            )
        )
    return table


TABLES = {
    "steps": steps,
    "ways": ways,
    "efficiencies": efficiencies,
    "best": best,
    "enough": enough,
    "feeding": feeding,
    **scaling_shared.TABLES,
}


def markdown(table: Table) -> str:
    """Return a table as Markdown; all columns but the first to the right."""
    head, *rows = table
    rule = ("---", *["---:"] * (len(head) - 1))
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def renew(text: str) -> str:
    """Return the document with its tables renewed; raises KeyError for one without a place."""
    for name, make in TABLES.items():
        place = re.compile(rf"(<!-- table {name} -->\n)[^<]*(<!-- end -->)")
        content = markdown(make()) + "\n"
        text, count = place.subn(lambda m, c=content: m[1] + c + m[2], text)
        if count != 1:
            raise KeyError(f"{name}: the document has {count} places for it")
    return text


def draw(path: Path) -> None:
    """Draw efficiency over the number of GPUs, and images a second of this MLP."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure_, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
    for color, (name, net) in enumerate(NETS.items()):
        for batch, style in ((64, ":"), (512, "--"), (4096, "-")):
            shares = [100 * efficiency(net, batch, p, GPUS) for p in COUNTS]
            label = name if style == "-" else None
            left.plot(COUNTS, shares, style, color=f"C{color}", label=label)
    left.axhline(50, color="grey", linewidth=0.6)
    left.set_title("Efficiency in %, with 64 (dots), 512, 4096 (solid) examples a GPU", fontsize=8)
    left.legend(fontsize=7)
    for batch in GLOBAL_BATCHES:
        fitting = [p for p in (1, 2, 4, *COUNTS) if p <= batch]
        rates = [batch / step(MLP, batch // p, p, RESIDENT).seconds / 1e6 for p in fitting]
        right.plot(fitting, rates, marker=".", label=f"global batch {batch:,}")
    right.set_title(
        "784-512-512-10 with data on the GPU, global batch fixed: million images a second",
        fontsize=8,
    )
    right.set_yscale("log")
    right.legend(fontsize=7)
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xticks([1, 8, 64, 512, 4096], ["1", "8", "64", "512", "4,096"])
        axis.set_xlabel("GPUs", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(exist_ok=True)
    figure_.savefig(path, dpi=120)
    plt.close(figure_)


if __name__ == "__main__":
    DOCUMENT.write_text(renew(DOCUMENT.read_text()))
    draw(IMAGE)
    scaling_shared.draw(scaling_shared.IMAGE)
