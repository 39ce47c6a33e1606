"""The part of docs/scaling.md about a shared state: a transformer on GPUs, by parallel.shard_state.

What a layer of the network needs is gathered while other layers are computed, where the backend can
(`overlapped`). Seconds, bytes, bytes a second throughout.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from benchmarks.scaling import FLOAT, MLP

from trainer.plan import scaling
from trainer.plan.command import seconds
from trainer.plan.devices import SHARE
from trainer.plan.scaling import MACHINES, Link, Machine, Step, ring

IMAGE = Path(__file__).resolve().parent / "images" / "scaling-shared.png"
GPUS = MACHINES["H100"]
COUNTS = (1, 8, 64, 512, 4096)
BYTES = 256  # words of the vocabulary
GRADIENTS, ADAM = FLOAT, 2 * FLOAT  # bytes a weight

Table = list[tuple[str, ...]]


class Transformer(NamedTuple):
    """That of examples/transformer."""

    layers: int
    features: int
    length: int  # bytes of an example

    @property
    def layer(self) -> int:
        """Weights of a layer."""
        return 12 * self.features**2 + 13 * self.features

    @property
    def weights(self) -> int:
        return self.layers * self.layer + (2 * BYTES + self.length) * self.features

    def operations(self, examples: int) -> float:
        """Return those of a step's products: forward, and twice as many backward."""
        attention = 2 * self.layers * self.length * self.features  # two products with all bytes
        return 6.0 * examples * self.length * (self.weights + attention)


BILLION = Transformer(20, 2048, 2048)


class Setting(NamedTuple):
    """How devices share the state, and what of its collectives the computation can hide."""

    name: str
    shared: str  # parallel.shard_state
    overlapped: bool  # whether each layer's run beside the computation of others
    within_hosts: bool = False  # parallel.mesh.shard=8: each host has a copy


NONE = Setting("none", "none", overlapped=False)
LAYERS = Setting("none, layer by layer", "none", overlapped=True)
OPTIMIZER = Setting("optimizer", "optimizer", overlapped=False)
ALONE = Setting("all, nothing overlaps", "all", overlapped=False)
ALL = Setting("all", "all", overlapped=True)
HOSTS = Setting("all, mesh.shard=8", "all", overlapped=True, within_hosts=True)
SETTINGS = (NONE, LAYERS, OPTIMIZER, ALONE, ALL, HOSTS)


def collectives(net: Transformer, setting: Setting, devices: int, machine: Machine) -> float:
    """Return the seconds of all collectives of a step, without what hides them."""
    inside = min(devices, machine.devices_per_host)
    hosts = -(-devices // inside)
    whole, layer = net.weights * FLOAT, net.layer * FLOAT
    if setting.shared == "none":
        pieces, size = (net.layers, layer) if setting.overlapped else (1, whole)
        return pieces * scaling.collective("all-reduce", size, inside, hosts, machine)
    halves = ("reduce-scatter", "all-gather")
    if setting.shared == "optimizer":
        return sum(scaling.collective(kind, whole, inside, hosts, machine) for kind in halves)
    between = 1 if setting.within_hosts else hosts
    kinds = (*halves, "all-gather")  # the weights once more for the backward pass
    each = sum(scaling.collective(kind, layer, inside, between, machine) for kind in kinds)
    if setting.within_hosts:
        each += scaling.collective("all-reduce", layer / inside, 1, hosts, machine)
    return net.layers * each


def step(net: Transformer, setting: Setting, examples: int, devices: int, machine: Machine) -> Step:
    """Predict a step of some devices, each with so many examples."""
    sharing = shards(setting, devices, machine)
    computing = scaling.compute(
        net.operations(examples), net.weights * FLOAT, machine, machine.flops, 1 / sharing
    )
    pieces = net.layers if setting.overlapped else 1
    waiting = scaling.exposed(collectives(net, setting, devices, machine), pieces, computing)
    return scaling.step(computing, waiting, devices, examples, net.length, machine)


def efficiency(net: Transformer, setting: Setting, examples: int, devices: int) -> float:
    """Return the speed of p devices over p times that of one with the whole state."""
    alone = step(net, NONE, examples, 1, GPUS)
    return alone.seconds / step(net, setting, examples, devices, GPUS).seconds


def shards(setting: Setting, devices: int, machine: Machine) -> int:
    """Return over how many devices a copy of the state is spread."""
    if setting.shared == "none":
        return 1
    return min(devices, machine.devices_per_host) if setting.within_hosts else devices


def state(net: Transformer, setting: Setting, devices: int) -> float:
    """Return the bytes of weights, Adam's state and gradients on each device."""
    parts = shards(setting, devices, GPUS)
    kept = FLOAT + GRADIENTS if setting.shared == "optimizer" else 0
    split = ADAM if setting.shared == "optimizer" else FLOAT + GRADIENTS + ADAM
    # Weights of the layer at work and of the next one are whole; so are the first's gradients.
    gathered = 3 * FLOAT * net.layer if setting.shared == "all" and parts > 1 else 0
    return net.weights * (kept + split / parts) + gathered


class Measured(NamedTuple):
    """A run of the MLP 784-512-512-10 in several processes on 2 cores."""

    processes: int
    batch: int  # over all
    shared: str
    seconds: float  # a step


MEASURED = (  # medians of three
    Measured(2, 64, "none", 6.90e-3),
    Measured(2, 64, "optimizer", 15.42e-3),
    Measured(2, 64, "all", 13.06e-3),
    Measured(4, 64, "none", 13.77e-3),
    Measured(4, 64, "optimizer", 29.78e-3),
    Measured(4, 64, "all", 53.02e-3),
)
# As in the document: a message between two processes, and a step on one core by its examples.
GLOO, CORES = Link(757e-6, 2.02e9), 2
CORE = {64: 2.51e-3, 32: 1.38e-3, 16: 821e-6}
SPLIT = (784 * 512, 512 * 512, 512 * 10)  # the kernels; biases and metrics travel in one all-reduce


def predicted(run: Measured) -> float:
    """Return the seconds of a step by ring, of processes that take turns on the cores."""
    p, rest = run.processes, MLP.message - sum(SPLIT) * FLOAT
    if run.shared == "none":
        sending = ring(MLP.message, p, GLOO)
    else:  # of "optimizer" one message has all kernels; a scatter and a gather are one all-reduce
        messages = (sum(SPLIT),) if run.shared == "optimizer" else SPLIT
        sending = ring(rest, p, GLOO) + sum(ring(n * FLOAT, p, GLOO) for n in messages)
    return (CORE[run.batch // p] + sending) * max(1.0, p / CORES)


def measured() -> Table:
    """Steps of several processes that share the state, and what the model says."""
    table: Table = [("layout", "shard_state", "measured", "predicted", "predicted : measured")]
    for run in MEASURED:
        name, there = f"{run.processes} processes, batch {run.batch}", predicted(run)
        row = (seconds(run.seconds), seconds(there), f"{there / run.seconds:.2f}")
        table.append((name, run.shared, *row))
    return table


def memory() -> Table:
    """State and gradients on each GPU."""
    rows = (NONE, OPTIMIZER, ALL, HOSTS)
    table: Table = [("shard_state", *(f"{p:,} GPU{'s' * (p > 1)}" for p in COUNTS))]
    for setting in rows:
        sizes = (f"{state(BILLION, setting, p) / 1e9:.1f} GB" for p in COUNTS)
        table.append((setting.name, *sizes))
    return table


def largest() -> Table:
    """The largest network, 20 layers, of which state and gradients take half of what JAX has."""
    table: Table = [("shard_state", *(f"{p:,} GPU{'s' * (p > 1)}" for p in COUNTS))]
    for setting in (NONE, OPTIMIZER, ALL, HOSTS):
        fitting = []
        for p in COUNTS:
            nets = (BILLION._replace(features=128 * n) for n in range(1, 1000))
            room = SHARE * GPUS.capacity / 2
            most = max(net.weights for net in nets if state(net, setting, p) <= room)
            fitting.append(f"{most / 1e9:.1f} B")
        table.append((setting.name, *fitting))
    return table


def efficiencies() -> Table:
    """Efficiency of each setting."""
    table: Table = [("shard_state", "examples a GPU", *(f"{p:,} GPUs" for p in COUNTS[1:]))]
    for examples in (1, 8):
        for setting in SETTINGS:
            shares = (f"{efficiency(BILLION, setting, examples, p):.0%}" for p in COUNTS[1:])
            table.append((setting.name, f"{examples}", *shares))
    return table


def steps() -> Table:
    """What a step of one example on each of 512 GPUs consists of."""
    table: Table = [("shard_state", "compute", "collectives", "of them not hidden", "step")]
    for setting in SETTINGS:
        whole = step(BILLION, setting, 1, 512, GPUS)
        sent = collectives(BILLION, setting, 512, GPUS)
        table.append(
            (setting.name, *map(seconds, (whole.compute, sent, whole.reduce, whole.seconds)))
        )
    return table


TABLES = {
    "shared memory": memory,
    "shared largest": largest,
    "shared steps": steps,
    "shared efficiencies": efficiencies,
}
TABLES |= {"shared measured": measured} if MEASURED else {}


def draw(path: Path) -> None:
    """Draw efficiency over the number of GPUs, for one and for eight examples on each."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    counts = [2**n for n in range(3, 13)]
    figure_, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), sharey=True, layout="constrained")
    for axis, examples in zip(axes, (1, 8), strict=True):
        for setting in SETTINGS:
            shares = [100 * efficiency(BILLION, setting, examples, p) for p in counts]
            axis.plot(counts, shares, marker=".", label=setting.name)
        axis.set_title(f"1 B weights, {examples} x 2,048 bytes a GPU: efficiency in %", fontsize=8)
        axis.set_ylim(0, 110)
        axis.set_xscale("log", base=2)
        axis.set_xticks([8, 64, 512, 4096], ["8", "64", "512", "4,096"])
        axis.set_xlabel("GPUs", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=7)
    figure_.savefig(path, dpi=120)
    plt.close(figure_)
