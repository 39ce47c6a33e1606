"""`python -m trainer selftest`: proves on this machine that an interrupted run loses nothing."""

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.commands import arguments as command_line
from trainer.job.directory import expanded
from trainer.job.errors import EXIT_COMPLETED, EXIT_INTERNAL, ConfigError, TrainerError, writing
from trainer.job.files import to_json
from trainer.job.signals import StopRequest
from trainer.job.stdout import show
from trainer.selftest.children import Layout
from trainer.selftest.interrupt_and_compare import Proof
from trainer.tracking.terminal import Terminal

DESCRIPTION = """\
Runs a short job to its end. Then runs it again in another folder, kills it or asks it to stop at
random instants, and starts it again each time. Both must end with the same bits and the same log.
"""
EPILOG = """\
exit codes:
  0   proven
  70  not equal: it says what differs, and keeps the folder
  74  the output cannot be written
  75  stopped by a signal
  78  an option is wrong
  else the job's own exit code, if it fails without an interruption

examples:
  python -m trainer selftest                              20 interruptions, some minutes
  python -m trainer selftest --kills 100 --processes 2    one or both of two processes are hit
  python -m trainer selftest --virtual-shards 4 --layouts 1x1,1x2,2x2 --flip-every 3
  python -m trainer selftest --virtual-shards 4 --layouts 1x4,4x1 --shard-states none,all
  python -m trainer selftest --kills 5 +experiment=mlp train.epochs=2
"""
SHARD_STATES = ("none", "optimizer", "all")
SIGNALS = ("KILL", "TERM", "INT", "USR1")
JOB = (  # some seconds of training, in which it saves, deletes, evaluates and logs all the time
    *("data=mnist_5k", "model.hidden_sizes=[64]", "train.epochs=20", "train.steps_per_dispatch=4"),
    *("train.log_every_steps=9", "checkpoint.every_steps=30"),
)
OWN = (
    *("run.dir", "run.name", "run.root", "train.compilation_cache_dir", "parallel.devices"),
    *("cluster.heartbeat_timeout_seconds", "cluster.startup_timeout_seconds"),
)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the arguments, checked.

    Raises:
        ConfigError: names the option, its value and the rule.
    """
    parser, number = command_line.parser("selftest", DESCRIPTION, EPILOG), command_line.at_least(1)
    add, names = parser.add_argument, ",".join(SIGNALS)
    add("--kills", type=number, default=20, metavar="N", help="interruptions in all (default: 20)")
    add("--processes", type=number, default=1, metavar="P", help="of the job (default: 1)")
    add("--devices", type=number, default=1, metavar="D", help="per process (default: 1)")
    drawn = f"what to send, drawn at random (default: {names})"
    add("--signals", type=_some_of(SIGNALS), metavar="NAME,...", default=names, help=drawn)
    add("--seed", type=int, default=0, metavar="S", help="of the random draws (default: 0)")
    add("--dir", metavar="DIR", help="an empty or new folder to work in (default: a temporary one)")
    add("--keep", action="store_true", help="do not empty the folder at the end")
    drawn = "draw PROCESSESxDEVICES at each start but the first; needs --virtual-shards"
    add("--layouts", type=_layouts, metavar="PxD,...", help=drawn)
    add("--virtual-shards", type=number, metavar="V", help="parallel.virtual_shards=V")
    drawn = "draw parallel.shard_state at each start but the first; needs --virtual-shards"
    add("--shard-states", type=_some_of(SHARD_STATES), metavar="NAME,...", help=drawn)
    add("--flip-every", type=number, metavar="N", help="flip a bit of a checkpoint every N starts")
    add("--json", action="store_true", help="print the result as JSON")
    options = "of the job; a +experiment=NAME among them replaces the short job"
    add("overrides", nargs="*", metavar="OPTION=VALUE", help=options)
    args = command_line.parse(parser, arguments)
    for override in args.overrides:
        if (option := override.lstrip("+~").partition("=")[0]) in OWN:
            raise ConfigError(f"{override}: selftest sets {option} itself", "leave it out")
    if not any(override.startswith("+experiment=") for override in args.overrides):
        args.overrides = [*_short_job(args.overrides), *args.overrides]
    for option in ("layouts", "shard_states"):
        if getattr(args, option) and not args.virtual_shards:
            name = f"--{option.replace('_', '-')}"
            message = f"{name} needs --virtual-shards: else the bits depend on what is drawn"
            raise ConfigError(message, "add --virtual-shards V")
    args.reference = Layout(args.processes, args.devices)
    args.layouts = args.layouts or [args.reference]
    if args.virtual_shards:
        args.overrides.append(f"parallel.virtual_shards={args.virtual_shards}")
    return args


def _some_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return an argparse type: some of these names, with commas between."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        if not set(names) <= set(known):
            raise argparse.ArgumentTypeError(f"{text}: use some of {','.join(known)}")
        return names

    return read


def _short_job(overrides: Sequence[str]) -> list[str]:
    """Return the options of the short job that these do not replace."""
    given = {override.partition("=")[0] for override in overrides}
    if "model" in given:  # the MLP's own option goes with it
        given.add("model.hidden_sizes")
    return [option for option in JOB if option.partition("=")[0] not in given]


def _layouts(text: str) -> list[Layout]:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*(,[1-9]\d*x[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f"{text}: use PROCESSESxDEVICES,... like 1x1,2x1")
    return [Layout(*map(int, pair.split("x"))) for pair in text.split(",")]


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Prove exact resume as the arguments say; return the exit code: 0 proven, 70 not equal.

    Raises:
        ConfigError: an option is wrong.
        TrainerError: the job fails on its own, with its exit code.
        Preempted: a signal stopped this command; its children are ended.
    """
    args = parse(arguments)
    folder, terminal = _folder(args.dir), Terminal()
    try:
        result = Proof(args, folder, stop, terminal).run()
    except TrainerError as error:
        error.args = (f"{error}\nthe runs and their output are kept in {folder}",)
        raise
    finally:
        terminal.close()
    proven = result["proven"]
    if args.keep or not proven:
        result["kept_in"] = str(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        if args.dir:
            folder.mkdir(exist_ok=True)
    if args.json:
        show(to_json(result, indent=2))
    else:
        verdict = "proven: every run ended with the bits and the log of the unbroken one"
        verdict = verdict if proven else "NOT EQUAL"
        Terminal(sys.stdout).summary([*rows(result), ("verdict", verdict)])
    return EXIT_COMPLETED if proven else EXIT_INTERNAL


def rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the table of a result of Proof.run as pairs of name and value. Pure."""
    table = []
    for name, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{count} {key}" for key, count in value.items())
        for each in value if isinstance(value, list) else [value]:
            table.append((name.replace("_", " "), str(each)))
    return table


def _folder(given: str | None) -> Path:
    if given is None:
        return Path(tempfile.mkdtemp(prefix="trainer-selftest-"))
    folder = expanded(given, "--dir").absolute()
    with writing(folder, "choose another folder with --dir"):
        folder.mkdir(parents=True, exist_ok=True)
        empty = not any(folder.iterdir())
    if not empty:
        raise ConfigError(f"--dir {given} is not empty", "give an empty or a new folder")
    return folder
