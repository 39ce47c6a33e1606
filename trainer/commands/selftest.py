"""`python -m trainer selftest`: proves on this machine that an interrupted run ends as an unbroken.

A short job runs to its end; then it runs again in another directory, is ended at random instants
and started again each time. Both have to end with the same bits and the same log.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from trainer.commands import witness
from trainer.commands.children import Layout
from trainer.commands.interruption import Proof
from trainer.commands.tally import Options, report, rows
from trainer.errors import EXIT_COMPLETED, EXIT_INTERNAL, ConfigError, TrainerError
from trainer.preemption import StopRequest
from trainer.terminal import Terminal

SIGNALS = ("KILL", "TERM", "INT", "USR1")
# Seconds of training in which it saves, deletes, evaluates and logs all the time.
JOB = (
    "+experiment=smoke",
    "train.epochs=20",
    "train.steps_per_dispatch=4",
    "train.log_every_steps=10",
    "checkpoint.every_steps=30",
)
OWN = ("run.dir", "run.name", "run.root", "train.compilation_cache_dir", "parallel.devices")


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Prove exact resume as the arguments say; return the exit code: 0 proven, 70 not equal.

    Raises:
        ConfigError: an option is wrong.
        TrainerError: the job fails by itself, with its code.
        Preempted: asked to stop; the children are ended.
    """
    try:
        args = _parser().parse_args(arguments)
    except SystemExit as ended:  # argparse has told
        if ended.code:
            raise ConfigError("see `python -m trainer selftest --help`") from None
        return EXIT_COMPLETED
    options = options_of(args)
    folder = _folder(args.dir)
    terminal = Terminal()
    began = time.monotonic()
    proof = Proof(options, folder, stop, terminal)
    problems: list[str] = []
    kept, program = True, witness.program()
    try:
        terminal.note(f"unbroken run on {options.reference} in {folder}")
        unbroken = proof.unbroken()
        terminal.note(f"unbroken run: {time.monotonic() - began:.1f} s")
        expected = witness.summary(unbroken)["weights_sha256"]
        got = None
        while not problems and (not proof.tally.chains or proof.tally.interruptions < args.kills):
            broken = proof.chain()
            got = witness.summary(broken).get("weights_sha256")
            if witness.program() != program:
                raise TrainerError(
                    "the trainer's own files were changed during the proof, so it proves nothing: "
                    "start it again, from a copy that nobody changes"
                )
            found = witness.differences(unbroken, broken)
            problems = [f"{broken.name}: {line}" for line in found]
            verdict = "NOT equal" if problems else "equal"
            terminal.note(f"{broken.name} is completed and {verdict}")
        kept = bool(args.keep or problems)
        seconds = time.monotonic() - began
        told = folder if kept else None
        result = report(proof.tally, expected, got, problems, seconds, told)
        if args.json:
            print(json.dumps(result, indent=2))
        else:
            Terminal(sys.stdout).summary(rows(result))
    except TrainerError as error:
        logs = f"{error}\nthe runs and what they printed are kept in {folder}"
        error.args = (logs,)
        raise
    finally:
        if not kept:
            _clear(folder, whole=args.dir is None)
    return EXIT_INTERNAL if problems else EXIT_COMPLETED


def options_of(args: argparse.Namespace) -> Options:
    """Check the options against each other. Pure.

    Raises:
        ConfigError: names the option, the value, the rule.
    """
    for name, value, least in (
        ("--kills", args.kills, 1),
        ("--processes", args.processes, 1),
        ("--devices", args.devices, 1),
        ("--flip-every", args.flip_every, 1),
        ("--virtual-shards", args.virtual_shards, 1),
    ):
        if value is not None and value < least:
            raise ConfigError(f"{name} {value}: use a whole number from {least} up")
    names = [name.strip().upper().removeprefix("SIG") for name in args.signals.split(",")]
    for name in names:
        if name not in SIGNALS:
            raise ConfigError(f"--signals {name}: use some of {','.join(SIGNALS)}")
    for override in args.overrides:
        option = override.lstrip("+~").partition("=")[0]
        if option in OWN:
            raise ConfigError(f"{override}: selftest sets {option} itself; see --help")
    reference = Layout(args.processes, args.devices)
    layouts = [reference]
    overrides = list(args.overrides)
    if not any(override.startswith("+experiment=") for override in overrides):
        overrides = [*JOB, *overrides]
    if args.layouts is not None:
        if args.virtual_shards is None:
            raise ConfigError(
                f"--layouts {args.layouts}: needs --virtual-shards V, without which the bits "
                "depend on the number of devices"
            )
        if reference != Layout(1, 1):
            raise ConfigError("--layouts: the unbroken run is on 1x1; leave --processes, --devices")
        layouts = [_layout(text) for text in args.layouts.split(",")]
    if args.virtual_shards is not None:
        for processes, devices in layouts:
            if args.virtual_shards % (processes * devices):
                raise ConfigError(
                    f"--virtual-shards {args.virtual_shards}: does not divide over "
                    f"{processes}x{devices} devices: use a multiple of {processes * devices}"
                )
        overrides.append(f"parallel.virtual_shards={args.virtual_shards}")
    return Options(
        kills=args.kills,
        signals=[signal.Signals[f"SIG{name}"] for name in names],
        layouts=layouts,
        reference=reference,
        flip_every=args.flip_every,
        seed=args.seed,
        overrides=overrides,
    )


def _layout(text: str) -> Layout:
    found = re.fullmatch(r"\s*([1-9]\d*)x([1-9]\d*)\s*", text)
    if not found:
        raise ConfigError(f"--layouts {text}: use PROCESSESxDEVICES like 2x1, with commas between")
    return Layout(int(found[1]), int(found[2]))


def _folder(given: str | None) -> Path:
    if given is None:
        return Path(tempfile.mkdtemp(prefix="trainer-selftest-"))
    folder = Path(given).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"--dir {given}: is not empty: give an empty or a new folder")
    except OSError as error:
        raise ConfigError(f"--dir {given}: cannot be used ({error.strerror})") from None
    return folder


def _clear(folder: Path, whole: bool) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path, ignore_errors=True)
    if whole:
        folder.rmdir()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer selftest",
        description="Proves on this machine that a run which is ended at random instants and "
        "started again ends with the same bits, and the same log, as an unbroken one.",
        epilog="Exit codes: 0 proven, 70 not equal (it says what differs), 78 bad option, 75 asked "
        "to stop, any other: the job's own. Overrides are those of `python -m trainer`; with a "
        "+experiment=NAME among them that job is taken instead of a short one.",
    )
    add = parser.add_argument
    add("--kills", type=int, default=20, metavar="N", help="interruptions in all (%(default)s)")
    add("--processes", type=int, default=1, metavar="P", help="of a start, on this host (1)")
    add("--devices", type=int, default=1, metavar="D", help="of each process (1)")
    add("--signals", default=",".join(SIGNALS), help="to draw from (%(default)s)")
    add("--seed", type=int, default=0, metavar="S", help="of instants, signals and layouts (0)")
    add("--dir", metavar="DIR", help="working folder, empty or new; otherwise a temporary one")
    add("--keep", action="store_true", help="do not empty the folder at the end")
    add("--layouts", metavar="PxD,...", help="draw PROCESSESxDEVICES anew at every start")
    add("--virtual-shards", type=int, metavar="V", help="parallel.virtual_shards=V")
    add("--flip-every", type=int, metavar="N", help="flip a bit of a checkpoint every N restarts")
    add("--json", action="store_true", help="print the result as JSON")
    add("overrides", nargs="*", metavar="OPTION=VALUE", help="of the job")
    return parser
