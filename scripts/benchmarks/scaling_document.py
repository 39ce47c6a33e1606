"""Brings the tables and the plot of docs/scaling.md up to date.

    PYTHONPATH=.:scripts .venv/bin/python -m benchmarks.scaling_document [DIR/bench.json]

Tables stand between `<!-- table NAME -->` and `<!-- end -->`. Those that need measurements are
renewed only where a bench.json is given.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import scaling, scaling_tables
from benchmarks.figures import figure
from benchmarks.scaling_tables import COUNTS, GPUS, MLP, NETS, RESIDENT, Table

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT, IMAGE = ROOT / "docs" / "scaling.md", ROOT / "docs" / "images" / "scaling.png"


def renew(text: str, tables: Mapping[str, Table]) -> str:
    """Return the document with these tables renewed; raises KeyError for one without a place."""
    for name, table in tables.items():
        place = re.compile(rf"(<!-- table {name} -->\n)[^<]*(<!-- end -->)")
        content = scaling_tables.markdown(table) + "\n"
        text, count = place.subn(lambda m, c=content: m[1] + c + m[2], text)
        if count != 1:
            raise KeyError(f"{name}: the document has {count} places for it")
    return text


def measured(bench: Mapping[str, Any]) -> dict[str, Table]:
    """Return the tables of a run's section `scaling`."""
    section = bench["sections"]["scaling"]
    facts, lines = section["facts"], [line for line in section["lines"] if line["values"]]
    steps = {line["name"]: line["median"] for line in lines if line["unit"] == "ms a step"}
    table: Table = [("layout", "measured", "ring", "tree", "ring : measured")]
    for name, value in steps.items():
        ways = [steps.get(f"predicted ({way}): {name}") for way in ("ring", "tree")]
        if None not in ways:
            cells = [f"{figure(v)} ms" for v in (value, *ways)]
            table.append((name, *cells, f"{ways[0] / value:.2f}"))
    alone: Table = [("layout", "measured")]
    for name, value in steps.items():
        if not name.startswith("predicted") and f"predicted (ring): {name}" not in steps:
            alone.append((name, f"{figure(value)} ms"))
    sums: Table = [("all-reduce of", *(f"{p} processes" for p in facts["all_reduce_seconds"]))]
    for index, size in enumerate(facts["messages"]):
        each = (found[index] for found in facts["all_reduce_seconds"].values())
        sums.append((f"{size:,} floats", *(scaling_tables.seconds(value) for value in each)))
    constants: Table = [
        ("constant", "measured"),
        ("latency of a message", scaling_tables.seconds(facts["latency"])),
        ("bandwidth", f"{facts['bandwidth'] / 1e9:.2f} GB/s"),
        *(
            (
                f"step of {size} examples on one core",
                scaling_tables.seconds(one["seconds_per_step"]),
            )
            for size, one in facts["one_core"].items()
            if "seconds_per_step" in one
        ),
    ]
    return {"constants": constants, "sums": sums, "measured": table, "layouts": alone}


def draw(path: Path) -> None:
    """Draw efficiency over the number of GPUs, and images a second of this MLP."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure_, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
    for color, (name, net) in enumerate(NETS.items()):
        for batch, style in ((64, ":"), (512, "--"), (4096, "-")):
            shares = [100 * scaling.efficiency(net, batch, p, GPUS) for p in COUNTS]
            label = name if style == "-" else None
            left.plot(COUNTS, shares, style, color=f"C{color}", label=label)
    left.axhline(50, color="grey", linewidth=0.6)
    left.set_title("Efficiency in %, with 64 (dots), 512, 4096 (solid) examples a GPU", fontsize=8)
    left.legend(fontsize=7)
    for batch in scaling_tables.GLOBAL_BATCHES:
        fitting = [p for p in (1, 2, 4, *COUNTS) if p <= batch]
        rates = [batch / scaling.step(MLP, batch // p, p, RESIDENT).seconds / 1e6 for p in fitting]
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


def main() -> int:
    """Renew the document and the plot; return the exit code."""
    tables = {name: make() for name, make in scaling_tables.TABLES.items()}
    if len(sys.argv) > 1:
        tables |= measured(json.loads(Path(sys.argv[1]).read_text()))
    DOCUMENT.write_text(renew(DOCUMENT.read_text(), tables))
    draw(IMAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
