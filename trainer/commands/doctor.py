"""`python -m trainer doctor`: looks at everything a job needs, before the job is submitted."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from trainer.checks.finding import Finding, attempt, exit_code, merge
from trainer.commands import arguments as command_line
from trainer.commands.compose import compose
from trainer.config import Config
from trainer.errors import EXIT_COMPLETED, ConfigError
from trainer.preemption import StopRequest

DESCRIPTION = """\
Looks at everything a training job needs: versions, processes, devices, names, the run directory,
the data, the network between the devices, one compiled step. Alone, or in all processes of an
allocation at once, started just as the job will be; process 0 prints the table.
"""
EPILOG = """\
exit codes:
  0   all is well, or there are only warnings
  69  something needed is missing or does not answer
  78  a configuration is wrong

examples:
  python -m trainer doctor +experiment=mlp
  srun --nodes=2 python -m trainer doctor +experiment=mlp
"""


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Check what the arguments say, print a table or JSON, and return the exit code.

    Raises:
        ConfigError: an option is wrong.
    """
    args = command_line.parse(_parser(), arguments, overrides=True)
    if args is None:
        return EXIT_COMPLETED
    jobs = compose(args.overrides)
    if len(jobs) != 1:
        raise ConfigError("doctor looks at one job: leave out lists of values such as a=1,2")
    config = jobs[0].config
    data = dataclasses.replace(config.data, download=config.data.download and args.download)
    downloadable = config.data.download and not args.download
    return _examine(dataclasses.replace(config, data=data), downloadable, args.json, stop)


def _parser() -> argparse.ArgumentParser:
    usage = "[options] [+experiment=NAME] [OPTION=VALUE ...]"
    parser = command_line.parser("doctor", DESCRIPTION, EPILOG, usage)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--download", action="store_true", help="download data that is missing")
    return parser


def _examine(config: Config, downloadable: bool, as_json: bool, stop: StopRequest) -> int:
    import jax

    from trainer import cluster, recipe
    from trainer import mesh as meshes
    from trainer.checks import devices, host, storage
    from trainer.datasets import Dataset, Missing
    from trainer.errors import DataError
    from trainer.terminal import Terminal
    from trainer.topology import resolve

    findings: list[Finding] = []

    def look(check: str, found: Callable[[], Finding]) -> bool:
        findings.append(attempt(check, found))
        return findings[-1].level != "failure"

    look("versions", host.versions)
    topology = None

    def who() -> Finding:
        nonlocal topology
        topology = resolve(config.cluster, os.environ)
        return host.topology(topology)

    def meet() -> Finding:
        assert topology is not None
        cluster.configure(config.run, config.train.compilation_cache_dir if cached else None)
        cluster.connect(topology, config.cluster, stop)
        stop.install()
        if topology.num_processes == 1:
            return Finding("meeting", "ok", "one process: nobody to meet")
        return Finding("meeting", "ok", f"{topology.num_processes} processes at {topology.host}")

    connected = look("topology", who) and topology is not None
    if topology is not None:
        known = topology
        look("host name", lambda: host.own_name(known))
    look("proxies", lambda: host.proxies(os.environ))
    cached = look("compilation cache", lambda: host.compilation_cache(config.train))
    run_root = Path(config.run.dir or config.run.root).expanduser().absolute()
    look("free space", lambda: host.free_space(run_root))
    connected = connected and look("meeting", meet)
    if connected and topology is not None:
        known = topology
        look("devices", lambda: devices.seen(known))
        mesh = meshes.make_mesh(config.parallel.devices)
        divides = look("batch", lambda: devices.batch(config, mesh))
        chief = jax.process_index() == 0
        look("run directory", lambda: storage.run_directory(run_root, chief))
        dataset: Dataset | None = None

        def load() -> Finding:
            nonlocal dataset
            quiet = Terminal(quiet=True)
            try:
                dataset = recipe.load_dataset(config.data, quiet, stop)
            except DataError as error:
                if not (downloadable and isinstance(error, Missing)):
                    raise
            return storage.data_set(dataset, downloadable)

        look("data", load)
        look("clocks", devices.clocks)
        look("all-reduce", lambda: devices.all_reduce(mesh))
        if divides:
            everywhere = all(cluster.share(lambda: dataset is not None))
            there = dataset if everywhere else None
            look("one step", lambda: devices.one_step(config, there, mesh))
        try:
            told = cluster.share(lambda: [list(found) for found in findings])
        except Exception as error:  # gloo raises anything when a process is gone
            first_line = (str(error) or type(error).__name__).splitlines()[0]
            findings.append(Finding("end", "failure", f"another process was lost: {first_line}"))
            _show(findings, as_json)
            os._exit(exit_code(findings))  # an orderly end would wait for it
        findings = merge([[Finding(*found) for found in process] for process in told])
        if not chief:
            return exit_code(findings)
    _show(findings, as_json)
    return exit_code(findings)


def _show(findings: Sequence[Finding], as_json: bool) -> None:
    if as_json:
        print(json.dumps([found._asdict() for found in findings], indent=2))
    else:
        _print(findings)
    sys.stdout.flush()


def _print(findings: Sequence[Finding]) -> None:
    colors = {"ok": "green", "warning": "yellow", "failure": "bold red"}
    console = Console(highlight=False, soft_wrap=True)
    for found in findings:
        line = Text(f"{found.level:<8}", colors[found.level])
        console.print(line, Text(f"{found.check:<18} {found.told}"))
        if found.fix:
            fix = found.fix.replace("\n", f"\n{'':33}")
            console.print(Text(f"{'':28}fix: {fix}"))
