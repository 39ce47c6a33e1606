"""`scripts/bench`: sections in order, each kept as soon as it is done; then the plot."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import lines, plot, report
from benchmarks.bench import FAILED, Bench, Settings
from benchmarks.options import SECTIONS, parse
from benchmarks.processes import Failed
from benchmarks.progress import Progress
from trainer.job.files import write_json


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
