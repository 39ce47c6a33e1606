"""The command line of `python -m trainer selftest`: what is to be proven, and how."""

from __future__ import annotations

import argparse
import re
import signal

from trainer.commands import arguments as command_line
from trainer.job.errors import ConfigError
from trainer.selftest.children import Layout
from trainer.selftest.report import Options

DESCRIPTION = """\
Proves on this machine that a run which is ended at random instants and started again ends with the
same bits, and the same log, as an unbroken one.

A short job runs to its end once; then again in another folder, where it is killed, or asked to
stop, at random instants, and started again each time. All is done in a temporary folder.
"""
EPILOG = """\
exit codes:
  0   proven
  70  not equal: it says what differs, and keeps the folder
  74  the output cannot be written
  75  asked to stop
  78  an option is wrong
  else the job's own, where it fails by itself

examples:
  python -m trainer selftest                              20 interruptions, some minutes
  python -m trainer selftest --kills 100 --processes 2    of two processes, one or both are hit
  python -m trainer selftest --virtual-shards 4 --layouts 1x1,1x2,2x2 --flip-every 3
  python -m trainer selftest --kills 5 +experiment=mlp train.epochs=2
"""
SIGNALS = ("KILL", "TERM", "INT", "USR1")
# Seconds of training in which it saves, deletes, evaluates and logs all the time.
JOB = (
    "+experiment=smoke",
    "train.epochs=20",
    "train.steps_per_dispatch=4",
    "train.log_every_steps=9",  # a point where an epoch ends: whether it is being evaluated shows
    "checkpoint.every_steps=30",
)
OWN = (
    "run.dir",
    "run.name",
    "run.root",
    "train.compilation_cache_dir",
    "parallel.devices",
    "cluster.heartbeat_timeout_seconds",
    "cluster.startup_timeout_seconds",
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = command_line.parser("selftest", DESCRIPTION, EPILOG)
    add, some = made.add_argument, command_line.at_least(1)
    add("--kills", type=some, default=20, metavar="N", help="interruptions in all (default: 20)")
    add(
        "--processes",
        type=some,
        default=1,
        metavar="P",
        help="processes of the job, on this machine (default: 1)",
    )
    add("--devices", type=some, default=1, metavar="D", help="devices per process (default: 1)")
    signals = "what ends it, drawn at random (default: %(default)s)"
    add("--signals", metavar="NAME,...", default=",".join(SIGNALS), help=signals)
    add("--seed", type=int, default=0, metavar="S", help="of the random draws (default: 0)")
    add("--dir", metavar="DIR", help="work in this folder, empty or new, not in a temporary one")
    add("--keep", action="store_true", help="do not empty the folder at the end")
    add("--layouts", metavar="PxD,...", help="draw PROCESSESxDEVICES anew at each start")
    add(
        "--virtual-shards",
        type=some,
        metavar="V",
        help="parallel.virtual_shards=V, which --layouts needs",
    )
    add("--flip-every", type=some, metavar="N", help="flip a bit of a checkpoint every N starts")
    add("--json", action="store_true", help="print the result as JSON")
    add(
        "overrides",
        nargs="*",
        metavar="OPTION=VALUE",
        help="of the job, as `python -m trainer --help` lists them; a +experiment=NAME among them "
        "replaces the short job",
    )
    return made


def read(args: argparse.Namespace) -> Options:
    """Check the options against each other. Pure.

    Raises:
        ConfigError: names the option, the value, the rule.
    """
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
