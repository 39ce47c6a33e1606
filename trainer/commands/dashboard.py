"""`python -m trainer dashboard [FOLDER]`: TensorBoard, for the runs in a folder."""

import getpass
import importlib.util
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.commands.arguments import at_least, parser
from trainer.job import resources
from trainer.job.directory import expanded, make
from trainer.job.errors import ConfigError, UnavailableError
from trainer.job.signals import StopRequest

DESCRIPTION = """\
Shows runs in TensorBoard, on this machine only; also while a job writes them. Prints the address,
and how to reach it from another machine. Ctrl-C ends it.
"""
EPILOG = """\
All other options are those of TensorBoard, as --NAME=VALUE.

exit codes:
  69  TensorBoard is not installed
  78  there is no such folder
  else that of TensorBoard

examples:
  python -m trainer dashboard
  python -m trainer dashboard runs/mlp --port 7000
"""
FIRST_PORT, PORTS = 6006, 100


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Become TensorBoard; return only by an error.

    Raises:
        ConfigError: there is no such folder.
        UnavailableError: TensorBoard is not installed.
    """
    options = parser("dashboard", DESCRIPTION, EPILOG, "[FOLDER] [--port N] [--NAME=VALUE ...]")
    add = options.add_argument
    default = "TRAINER_RUN_ROOT, or else `runs`, which is made if it is missing"
    help_ = f"holds one run or many (default: {default})"
    add("folder", metavar="FOLDER", nargs="?", type=Path, help=help_)
    help_ = f"the port (default: the first free one from {FIRST_PORT} up)"
    add("-p", "--port", type=at_least(0), metavar="N", help=help_)
    args, own = options.parse_known_args(arguments)
    folder = _default() if args.folder is None else expanded(args.folder, "FOLDER").absolute()
    if not folder.is_dir():
        raise ConfigError(f"FOLDER={folder} is not a folder", "name the folder of your runs")
    if importlib.util.find_spec("tensorboard") is None:
        raise UnavailableError("TensorBoard is not installed", resources.how_to_install("offline"))
    port = args.port if args.port is not None else _free_port()
    user, host = getpass.getuser(), socket.gethostname()
    reach = f"ssh -N -L {port}:127.0.0.1:{port} {user}@{host}, then the same address"
    print(f"runs in {folder}: http://127.0.0.1:{port} (Ctrl-C ends it)", file=sys.stderr)
    print(f"from another machine: {reach}", file=sys.stderr, flush=True)
    words = ["--logdir", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    words += ["--reload_interval", "5", "--samples_per_plugin", "images=50,text=50", *own]
    os.execv(sys.executable, [sys.executable, "-m", "tensorboard.main", *words])  # noqa: S606


def _default() -> Path:
    """Return the folder of all runs; it is made: runs appear in it when they start."""
    given = os.environ.get("TRAINER_RUN_ROOT")
    folder = expanded(given or "runs", "TRAINER_RUN_ROOT").absolute()
    if not given and not folder.is_dir() and resources.is_checkout():
        folder = resources.home() / "runs"  # of scripts/train
    make(folder)
    return folder


def _free_port() -> int:
    for port in range(FIRST_PORT, FIRST_PORT + PORTS):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):  # nobody listens
                return port
    return FIRST_PORT
