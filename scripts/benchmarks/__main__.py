"""`scripts/bench`: sections in order, each kept as soon as it is done; then the plot."""

import json
import os
import signal
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.markdown import Markdown

from benchmarks import figures
from benchmarks.bench import FAILED, Bench
from benchmarks.measured import Failed
from benchmarks.options import EXAMPLES, SECTIONS, parse
from benchmarks.sections import examples
from trainer.job.files import write_json


def main() -> int:
    """Measure what the command line asks for; return the exit code."""
    options = parse(sys.argv[1:])
    rounds = options.rounds or (1 if options.quick else 3)
    settings = {"quick": options.quick, "rounds": rounds, "overrides": options.overrides}
    out: Path = options.out or Path("runs/bench") / time.strftime("%Y-%m-%d_%H-%M-%S")
    out.mkdir(parents=True, exist_ok=True)
    used = out / "settings.json"
    if used.exists() and json.loads(used.read_text()) != settings:
        print(f"error: --out {out} holds figures of other settings: name another", file=sys.stderr)
        return 78
    write_json(used, settings)
    began, load = time.monotonic(), os.getloadavg()[0]
    if load > 0.5:
        print(f"The machine is busy (load {load:.1f}): everything will look slower than it is")
    with tempfile.TemporaryDirectory(prefix="trainer-bench-") as folder:
        try:
            bench = Bench(**settings, torch_python=options.torch_python, scratch=Path(folder))
        except Failed as failure:
            print(f"error: the trainer does not run here: {failure}", file=sys.stderr)
            return 69
        machine = {**bench.machine, "load": load}
        write_json(out / "machine.json", machine)
        bench.say(describe(machine))
        for number, name in enumerate(options.sections, 1):
            file = out / f"{name}.json"
            if not file.exists():
                bench.section = f"{name} ({number} of {len(options.sections)})"
                if name in EXAMPLES:
                    section = examples.measure(bench, name)
                else:
                    section = import_module(f"benchmarks.sections.{name}").measure(bench)
                write_json(file, figures.to_json(section))
            bench.console.print(Markdown(figures.markdown(json.loads(file.read_text()))))
    # All sections in the folder, those of earlier calls too.
    files = {name: out / f"{name}.json" for name in SECTIONS}
    sections = {name: json.loads(f.read_text()) for name, f in files.items() if f.exists()}
    write_json(out / "bench.json", {"machine": machine, "sections": sections})
    texts = [figures.markdown(section) for section in sections.values()]
    (out / "bench.md").write_text("\n".join([f"{describe(machine)}.", "", *texts]))
    drawn = figures.draw(sections, out / "bench.png")
    bench.say(f"{(time.monotonic() - began) / 60:.1f} minutes; {out / 'bench.json'}{drawn}")
    reasons = [line["left_out"] for section in sections.values() for line in section["lines"]]
    return 70 if any(reason.startswith(FAILED) for reason in reasons) else 0


def describe(machine: dict[str, Any]) -> str:
    """Return a line on the machine and the data."""
    data, versions = machine["dataset"], machine["versions"]
    return (
        f"{machine['device_count']} x {machine['platform']} {machine['device_kind']}, "
        f"{len(machine['usable_cores'])} cores of {machine['cpu']['model']}, Python "
        f"{versions['python']}, jax {versions['jax']}; {data['name']}, "
        f"{data['train_examples']:,} + {data['test_examples']:,} images"
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no process is left behind
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped; with --out, the sections that are done are not measured again")
        sys.exit(130)
