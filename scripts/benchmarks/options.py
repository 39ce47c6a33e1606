"""The command line of `scripts/bench`. Needs the standard library only: --help answers at once."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.commands.arguments import at_least

DESCRIPTION = """\
Measures the trainer against PyTorch, a notebook's JAX loop and Flax, and against the limits of this
machine, on MNIST at batch 64 and more. Everything is measured in turn, in three rounds, each
measurement in a process of its own. Writes bench.md (tables), bench.json (all figures) and
bench.png (a plot).

All of it takes about half an hour on 2 cores, --quick about ten minutes. Run nothing else on the
machine.
"""
EPILOG = """\
PyTorch is optional and not in the lock, because its wheel brings gigabytes of CUDA. Without it its
lines say how to get it:
  .venv/bin/python -m pip install torch==2.13.0     into the environment
  scripts/bench --torch-python /path/to/python      or a Python elsewhere with torch and numpy

variables:
  TRAINER_VENV, TRAINER_ACCELERATOR, PYTHON   choose the environment: see scripts/_venv --help
  BENCH_PYTHON                                a Python with all that is needed: make no environment

exit codes:
  0    measured
  2    an option is wrong
  69   the trainer does not run here: no data, a wrong OPTION=VALUE, or no working jax
  70   something failed that ought to work; the tables say what, and have all the rest
  78   --out holds figures of other settings
  130  stopped; with --out DIR the same command resumes
  else that of scripts/_venv, where the environment cannot be made

examples:
  scripts/bench --quick
  scripts/bench --sections rivals,data data.root=DIR
  scripts/bench --sections examples        each example beside PyTorch and Flax
  scripts/bench --out runs/bench/first     again: sections that are done are not measured again
"""
SECTIONS = {
    "rivals": "training speed beside PyTorch, the notebook's loop and Flax; the machine's limits",
    "batch": "training speed by batch size, and by optimizer steps per dispatch",
    "data": "the data path alone",
    "startup": "from the command to the first step, with and without compiled programs",
    "overhead": "what logging, evaluating and saving cost",
    "options": "what options of training cost a step",
    "target": "from the command to 98 and to 98.5 % validation accuracy",
    "scaling": "several devices and processes, against a model's prediction",
    "memory": "of the host and of the device",
    "forms": "what each of the compiler's options and each form of the program gives",
    "cnn": "training speed of examples/cnn beside PyTorch and a plain Flax + Optax loop",
    "transformer": "the same of examples/transformer",
    "tabular": "the same of examples/tabular",
    "flax_module": "the same of examples/flax_module",
}
EXAMPLES = ("cnn", "transformer", "tabular", "flax_module")  # --sections examples is all of them


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options; argparse ends the program where they are wrong."""
    sections = "".join(f"  {name:<12} {text}\n" for name, text in SECTIONS.items())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=DESCRIPTION,
        epilog=f"sections:\n{sections}\n{EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one round, and less of everything")
    text, default = "measure these only (default: all)", list(SECTIONS)
    add("--sections", type=section_names, default=default, metavar="A,B,...", help=text)
    text = "rounds of every measurement (default: 3; with --quick: 1)"
    add("--rounds", type=at_least(1), metavar="N", help=text)
    add("--out", type=Path, metavar="DIR", help="of the results (default: runs/bench/TIME)")
    text = "a Python that has torch and numpy (default: that of the environment)"
    add("--torch-python", default=sys.executable, metavar="PATH", help=text)
    fallback = "data.offline_fallback=true"
    text = f"options of the trainer, wherever it is measured (default: {fallback})"
    add("overrides", nargs="*", default=[fallback], metavar="OPTION=VALUE", help=text)
    options = parser.parse_intermixed_args(arguments)
    if shutil.which(options.torch_python) is None:
        parser.error(f"--torch-python {options.torch_python}: no such program")
    return options


def section_names(text: str) -> list[str]:
    """Return the sections named, in the usual order; `examples` stands for those of EXAMPLES."""
    names = [name for name in text.split(",") if name != "examples"]
    names += EXAMPLES if "examples" in text.split(",") else ()
    for name in names:
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(f"{name}: use some of {', '.join(SECTIONS)}")
    return [name for name in SECTIONS if name in names]


if __name__ == "__main__":
    parse(sys.argv[1:])
