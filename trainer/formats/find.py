"""Where the files of a data set lie in a folder, such as the four of an IDX data set.

The names of MNIST's are `train-images-idx3-ubyte` and the like. Others write a point for a hyphen,
capitals, `test` for `t10k`, the name of the data set before them (EMNIST), or pack them. Some have
a folder of the same name around each.
"""

import os
import re
from itertools import islice
from pathlib import Path

from trainer.data.dataset import SPLITS
from trainer.formats.download import Missing
from trainer.job.errors import DataError

NAME = re.compile(
    r"(?P<set>.*?)(?P<split>train|t10k|test)[-._ ]*(?P<kind>images|labels)[-._ ]*"
    r"idx\d[-._ ]*ubyte(\.gz)?",
    re.IGNORECASE,
)
SHOWN = 8  # names in a message
LOOKED_AT = 5000  # names in folders below


def find(folder: Path, file: str, name: str, *, with_set: bool) -> Path:
    """Return where a file of a data set is.

    Args:
        folder: where to look.
        file: its name in MNIST.
        name: how the user named the folder.
        with_set: whether the name of a data set may come before that of the file.

    Raises:
        Missing: it is not there; says what is.
        DataError: the folder cannot be read, or holds the file of several data sets.
    """
    try:
        files, others = _names(folder)
    except OSError as error:
        absent = isinstance(error, FileNotFoundError | NotADirectoryError)
        kind, reason = (Missing if absent else DataError), error.strerror
        message = f"{name}: no {file}[.gz] there, the folder cannot be read ({reason})"
        raise kind(message, "correct the folder or its permissions") from error
    matches = [(path, NAME.fullmatch(path.rsplit("/", 1)[-1])) for path in files]
    known = [(match["set"].lower(), _meaning(match), path) for path, match in matches if match]
    sets = sorted({one for one, _, _ in known})
    if with_set and len(sets) > 1 and "" not in sets:
        message = f"{name}: holds several data sets: {_listed(sets)}"
        raise DataError(message, "put the four files of one of them into a folder of their own")
    wanted = sets[0] if with_set and sets else ""  # never some files of one set, some of another
    if found := [
        path for one, meaning, path in known if (one, meaning) == (wanted, _meaning(file))
    ]:
        # MNIST's own names first; not packed before packed.
        return folder / min(found, key=lambda path: (not path.startswith(file), "/" in path, path))
    holds = f"it holds {_listed([*files, *others])}" if files or others else "it is empty"
    below = sorted({path.parent for path in _below(folder)})
    hint = "; or name the folder that has such files: " + ", ".join(map(str, below[:SHOWN]))
    message = f"{name}: no {file}[.gz] there, {holds}"
    raise Missing(message, f"put it there, or correct the folder{hint if below else ''}")


def files_of(root: Path, option: str, endings: tuple[str, ...] | None = None) -> dict[str, Path]:
    """Return the files train.*, test.* and perhaps validation.* of a folder; of a file, as train.

    Args:
        root: the folder or the file.
        option: that named it, for messages.
        endings: of the names, such as .csv; None: any.

    Raises:
        DataError: one is missing, or there are two for a split.
    """
    kind = "file" if endings is None else f"file {' or '.join(endings)}"
    if not os.path.isdir(root):  # noqa: PTH112 - Path raises if a parent is closed
        if endings is not None and root.suffix.lower() not in endings:
            if not os.path.lexists(root):
                raise DataError(
                    f"{option}={root}: is not there", "correct the path or its permissions"
                )
            message = f"{option}={root}: is not a {' or '.join(endings)} file"
            raise DataError(message, "give one, or a folder of such files")
        return {"train": root}
    try:
        found = sorted(path for path in root.iterdir() if path.is_file())
    except OSError as error:
        message = f"{option}={root}: the folder cannot be read ({error.strerror})"
        raise DataError(message, "correct its permissions") from error
    files = {}
    for split in SPLITS:
        of_split = [
            path
            for path in found
            if path.stem == split and (endings is None or path.suffix.lower() in endings)
        ]
        if len(of_split) > 1:
            names = ", ".join(path.name for path in of_split)
            raise DataError(f"{option}={root}: has {names}", f"leave one file of {split} there")
        if of_split:
            files[split] = of_split[0]
    for split in ("train", "test"):
        if split not in files:
            holds = ", ".join(path.name for path in found[:SHOWN]) or "no file"
            message = f"{option}={root}: no {kind} {split}.* there, it holds {holds}"
            raise DataError(message, "name the files train.*, test.* and perhaps validation.*")
    return files


def _names(folder: Path) -> tuple[list[str], list[str]]:
    """Return the files of a folder, and the folders; what is in one named like a file counts."""
    files, others = [], []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_file():
            files.append(entry.name)
        elif entry.is_dir() and NAME.fullmatch(entry.name):
            files += [f"{entry.name}/{one.name}" for one in os.scandir(entry) if one.is_file()]
        else:
            others.append(f"{entry.name}/" if entry.is_dir() else entry.name)
    return files, others


def _below(folder: Path) -> list[Path]:
    """Return files with such names one and two folders below."""
    paths = (path for pattern in ("*/*", "*/*/*") for path in folder.glob(pattern))
    return [path for path in islice(paths, LOOKED_AT) if NAME.fullmatch(path.name)]


def _meaning(name: str | re.Match[str]) -> tuple[str, str]:
    """Return the split and the kind that the name of a file stands for."""
    match = NAME.fullmatch(name) if isinstance(name, str) else name
    assert match is not None
    return match["split"].lower().replace("test", "t10k"), match["kind"].lower()


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
