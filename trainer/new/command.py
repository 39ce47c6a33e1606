"""`python -m trainer new DIR`: a small project with a model, an experiment and a README."""

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from trainer.commands.arguments import parse, parser
from trainer.job.directory import expanded
from trainer.job.errors import EXIT_COMPLETED, ConfigError, writing
from trainer.job.signals import StopRequest
from trainer.job.stdout import show

DESCRIPTION = """\
Writes a small project: a model in one Python file, an experiment that trains it on 5,000 digits in
some seconds, without a download, and a README with the commands.
"""
EPILOG = """\
exit codes:
  0   written
  74  the storage is full or read-only
  78  DIR is not an empty or a new folder

examples:
  python -m trainer new digits
"""
TEMPLATE = Path(__file__).with_name("template")


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Write the project and print its files and the next command; return exit code 0.

    Raises:
        ConfigError: the folder holds something.
        SaveError: it cannot be written.
    """
    options = parser("new", DESCRIPTION, EPILOG)
    options.add_argument("folder", metavar="DIR", type=Path, help="an empty or a new folder")
    args = parse(options, arguments)
    folder = expanded(args.folder, "DIR")
    with writing(folder, "choose another folder"):
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise ConfigError(f"DIR={folder} is not empty", "give an empty or a new folder")
        # Not copytree: it copies the modes of folders too, and those of a package may be read-only.
        files = [f for f in sorted(TEMPLATE.rglob("*")) if f.is_file() and f.suffix != ".pyc"]
        for file in files:
            target = folder / file.relative_to(TEMPLATE)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    rows = [f"wrote      {folder / file.relative_to(TEMPLATE)}" for file in files]
    train = "python -m trainer --config-dir conf +experiment=first run.name=first"
    show("\n".join([*rows, f"train it   cd {shlex.quote(str(folder))} && {train}"]))
    return EXIT_COMPLETED
