"""`scripts/bench`: sections in order, each kept as soon as it is done; then the plot."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import lines, plot, report
from benchmarks.bench import FAILED, Bench, Settings
from benchmarks.processes import Failed
from benchmarks.progress import Progress
from trainer.atomic import write_json
from trainer.commands.arguments import at_least

SECTIONS = ("rivals", "batch", "data", "startup", "overhead", "target", "scaling", "memory")


def main() -> int:
    """Measure what the command line asks for; return the exit code."""
    options = parse(sys.argv[1:])
    rounds = options.rounds or (1 if options.quick else 3)
    settings = Settings(options.quick, rounds, options.overrides)
    out: Path = options.out or Path("runs/bench") / time.strftime("%Y-%m-%d_%H-%M-%S")
    console = Console(width=None if sys.stdout.isatty() else 160)
    progress = Progress(console)
    out.mkdir(parents=True, exist_ok=True)
    if not same_settings(out / "settings.json", settings._asdict()):
        print(f"error: --out {out} holds figures of other settings: name another", file=sys.stderr)
        return 78
    began = time.monotonic()
    load = os.getloadavg()[0]
    if load > 0.5:
        progress.say(f"The machine is busy (load {load:.1f}): figures will be worse than they are")
    with tempfile.TemporaryDirectory(prefix="trainer-bench-") as folder:
        try:
            bench = Bench(settings, Path(folder), options.torch_python, progress)
        except Failed as failure:
            print(f"error: the trainer does not run here: {failure}", file=sys.stderr)
            return 69
        machine = {**bench.machine, "load": load}
        write_json(out / "machine.json", machine)
        progress.say(describe(machine))
        for number, name in enumerate(options.sections, 1):
            file = out / f"{name}.json"
            if file.exists():
                section = lines.from_json(json.loads(file.read_text()))
            else:
                progress.section(name, number, len(options.sections))
                section = import_module(f"benchmarks.sections.{name}").measure(bench)
                write_json(file, lines.to_json(section))
            report.show(section, console)
    found = collect(out)
    write_json(out / "bench.json", {"machine": machine, "sections": found})
    sections = [report.markdown(lines.from_json(section)) for section in found.values()]
    (out / "bench.md").write_text("\n".join([describe(machine) + ".", "", *sections]))
    drawn = plot.draw(found, out / "bench.png")
    minutes = (time.monotonic() - began) / 60
    progress.say(f"{minutes:.1f} minutes; {out / 'bench.json'}{drawn}")
    told = [line["left_out"] for section in found.values() for line in section["lines"]]
    return 70 if any(reason.startswith(FAILED) for reason in told) else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options; argparse ends the program where they are wrong."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, less of everything")
    parser.add_argument(
        "--sections",
        type=section_names,
        default=list(SECTIONS),
        metavar="A,B,...",
        help=f"of {', '.join(SECTIONS)}",
    )
    parser.add_argument("--rounds", type=at_least(1), help="of every measurement (3; --quick: 1)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="of the results (runs/bench/TIME)")
    parser.add_argument(
        "--torch-python",
        default=sys.executable,
        metavar="PATH",
        help="a Python that has torch and numpy",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=["data.offline_fallback=true"],
        metavar="OPTION=VALUE",
        help="of the trainer, like data.root=DIR (data.offline_fallback=true)",
    )
    options = parser.parse_intermixed_args(arguments)
    if shutil.which(options.torch_python) is None:
        parser.error(f"--torch-python {options.torch_python}: no such program")
    return options


def section_names(text: str) -> list[str]:
    """Return the sections named, in the usual order."""
    names = text.split(",")
    for name in names:
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(f"{name}: use some of {', '.join(SECTIONS)}")
    return [name for name in SECTIONS if name in names]


def same_settings(path: Path, settings: Mapping[str, Any]) -> bool:
    """Note the settings in a new folder; in one that has figures, say whether they agree."""
    if path.exists():
        return json.loads(path.read_text()) == dict(settings)
    write_json(path, dict(settings))
    return True


def describe(machine: Mapping[str, Any]) -> str:
    """Return a line on the machine and the data."""
    data, versions = machine["dataset"], machine["versions"]
    return (
        f"{machine['device_count']} x {machine['platform']} {machine['device_kind']}, "
        f"{len(machine['usable_cores'])} cores of {machine['cpu']['model']}, Python "
        f"{versions['python']}, jax {versions['jax']}; {data['name']}, "
        f"{data['train_examples']:,} + {data['test_examples']:,} images"
    )


def collect(out: Path) -> dict[str, Any]:
    """Return all sections that are in the folder, those of earlier calls too."""
    files = {name: out / f"{name}.json" for name in SECTIONS}
    return {name: json.loads(f.read_text()) for name, f in files.items() if f.exists()}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no process is left behind
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped; with --out, the sections that are done are not measured again")
        sys.exit(130)
