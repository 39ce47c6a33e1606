"""`python -m trainer export RUN DIR`: write a trained model to files that need no trainer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from trainer.commands import arguments as command_line
from trainer.export import FORMAT, INDEX
from trainer.job.directory import expanded
from trainer.job.errors import EXIT_COMPLETED, ConfigError, DataError, first_line, writing
from trainer.job.files import read_or_empty
from trainer.job.signals import StopRequest
from trainer.job.stdout import show, table
from trainer.tracking.terminal import Terminal

DESCRIPTION = """\
Writes the newest intact checkpoint of a run to a folder of files that need no trainer:

  model.stablehlo      the program, by jax.export, for CPUs and NVIDIA GPUs and any batch size
  weights.safetensors  the weights, which the program takes as an argument
  model.onnx           both for other runtimes, if the package onnx is installed
  predict.py           loads and runs them with jax and flatbuffers
  model.json           inputs and outputs, and the SHA-256 of every file
  MODEL_CARD.md        data, metrics, configuration, digests, versions, use and limits

The inputs are the fields of an example that the model reads; there is an ONNX file of the built-in
MLP only. The outputs are compared with the live model before the folder appears, as a whole.
"""
EPILOG = """\
exit codes:
  0   the folder is in place
  65  the run has no intact checkpoint, or the images of --data are missing or wrong
  70  an exported file does not agree with the model; nothing was put in place
  74  the storage is full or read-only, or does not let a checkpoint be read
  75  asked to stop; nothing was put in place
  78  RUN is not a run directory, DIR holds something else, an option is wrong, or the user's model
      has something in it that cannot be exported

examples:
  python -m trainer export runs/mlp/first exported/digits
  python -m trainer export runs/mlp/first exported/digits --replace --data ~/mnist
  python exported/digits/predict.py images.npy
"""


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Export the model of a run and print what was written."""
    parser = command_line.parser("export", DESCRIPTION, EPILOG)
    command_line.add_run(parser)
    parser.add_argument("directory", metavar="DIR", type=Path, help="the folder to be made")
    command_line.add_data(parser)
    help_ = "replace an earlier export; never anything else"
    parser.add_argument("--replace", action="store_true", help=help_)
    args = command_line.parse(parser, arguments)
    target = expanded(args.directory, "DIR").absolute()
    _check_target(target, replace=args.replace)
    terminal = Terminal()
    trained = command_line.open_run(args.run, args.step, terminal.warn)
    from trainer.commands import test_data
    from trainer.export import files

    terminal.note(f"checkpoint {trained.step} of {args.run} is intact")
    try:
        test = test_data.load(trained, args.data, terminal, stop, download=False)
    except (ConfigError, DataError) as error:  # the user's data module may be gone
        if args.data is not None:
            raise
        test, reason = None, first_line(error).rstrip(":")
        hint = "the files are compared on random ones, and the card gets no metrics"
        terminal.warn(f"there are no test examples ({reason}): {hint}")
    with replacing(target, replace=args.replace) as folder:
        results = files.write(folder, trained, test)
        stop.check("before the export was put in place")
    rows = [(path.name, f"{path.stat().st_size:,}") for path in sorted(target.iterdir())]
    show("\n".join([*table([("file", "bytes"), *rows], (0,)), *results, f"in {target}"]))
    return EXIT_COMPLETED


def _check_target(target: Path, *, replace: bool) -> None:
    """Check that an export may be written to a folder: a new one, or with `replace` an export.

    Raises:
        ConfigError: it holds other files, or an export that must not be replaced.
    """
    hint = "name a folder that does not exist yet"
    with writing(target, hint):
        names = {path.name for path in target.iterdir()} if target.exists() else set()
    index = read_or_empty(target / INDEX, {"format": str, "sha256": {"*": str}})
    # Python makes __pycache__ where somebody imports predict.py.
    ours = {INDEX, "__pycache__", *index["sha256"]} if index.get("format") == FORMAT else set()
    if others := sorted(names - ours):
        message = f"DIR={target} holds files that are not from an export: {others[0]}"
        raise ConfigError(message, hint)
    if names and not replace:
        raise ConfigError(f"DIR={target} holds an export", f"add --replace, or {hint}")


@contextmanager
def replacing(target: Path, *, replace: bool) -> Iterator[Path]:
    """Yield a temporary folder, and rename it to `target` when the block ends without an error.

    Raises:
        ConfigError: as in _check_target, or the folder cannot be written. The old one stays.
        SaveError: its storage is full or broken. The old one stays.
    """
    target = target.resolve()
    with writing(target, "name another folder"):
        target.parent.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {"prefix": f".{target.name}.", "ignore_cleanup_errors": True}
        # Beside the target: a rename is atomic only within one file system.
        with TemporaryDirectory(dir=target.parent, **options) as scratch:
            new = Path(scratch) / "new"
            new.mkdir()
            yield new
            _check_target(target, replace=replace)  # again: the work has taken a while
            if target.exists():
                target.rename(Path(scratch) / "old")
            new.rename(target)
