"""`python -m trainer export RUN DIR`: write a trained model to files that need no trainer."""

from collections.abc import Sequence
from pathlib import Path

from trainer.commands import arguments as command_line
from trainer.job.directory import expanded
from trainer.job.errors import EXIT_COMPLETED, ConfigError, DataError, first_line
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
    parser.add_argument(
        "--replace", action="store_true", help="replace an earlier export; never anything else"
    )
    args = command_line.parse(parser, arguments)
    from trainer.export import bundle

    target = expanded(args.directory, "DIR").absolute()
    bundle.check_target(target, replace=args.replace)
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
        test = None
        terminal.warn(
            f"there are no test examples ({first_line(error).rstrip(':')}): the files are compared "
            "on random ones, and the card gets no metrics"
        )
    with bundle.replacing(target, replace=args.replace) as folder:
        results = files.write(folder, trained, test)
        stop.check("before the export was put in place")
    rows = [(path.name, f"{path.stat().st_size:,}") for path in sorted(target.iterdir())]
    show("\n".join([*table([("file", "bytes"), *rows], (0,)), *results, f"in {target}"]))
    return EXIT_COMPLETED
