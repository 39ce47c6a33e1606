"""Where the files of a data set lie in a folder, such as the four of an IDX data set.

The names of MNIST's are `train-images-idx3-ubyte` and the like. Others write a point for a hyphen,
capitals, `test` for `t10k`, the name of the data set before them (EMNIST), or pack them. Some have
a folder of the same name around each.
"""

import re
import stat
from itertools import islice
from pathlib import Path

from trainer.data.dataset import SPLITS
from trainer.formats.download import Missing
from trainer.job.errors import DataError, reading
from trainer.job.stdout import SHOWN, listed

NAME = re.compile(
    r"(?P<set>.*?)(?P<split>train|t10k|test)[-._ ]*(?P<kind>images|labels)[-._ ]*"
    r"idx\d[-._ ]*ubyte(\.gz)?",
    re.IGNORECASE,
)
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
        entries = sorted(folder.iterdir())
        around = [one for one in entries if NAME.fullmatch(one.name) and one.is_dir()]
        paths = [*entries, *(path for one in around for path in one.iterdir())]
    except OSError as error:
        absent = isinstance(error, FileNotFoundError | NotADirectoryError)
        kind, reason = (Missing if absent else DataError), error.strerror
        message = f"{name}: no {file}[.gz] there, the folder cannot be read ({reason})"
        raise kind(message, "correct the folder or its permissions") from error
    files = [path for path in paths if NAME.fullmatch(path.name) and path.is_file()]
    sets = sorted({_meaning(path.name)[0] for path in files})
    if with_set and len(sets) > 1 and "" not in sets:
        message = f"{name}: holds several data sets: {listed(sets)}"
        raise DataError(message, "put the four files of one of them into a folder of their own")
    wanted = sets[0] if with_set and sets else ""  # never some files of one set, some of another
    if matching := [path for path in files if _meaning(path.name) == (wanted, *_meaning(file)[1:])]:
        # MNIST's own names first; not packed before packed.
        return min(matching, key=lambda p: (not p.name.startswith(file), p.parent != folder, p))
    names = [f"{one.name}/" if one.is_dir() else one.name for one in entries]
    below = (path for pattern in ("*/*", "*/*/*") for path in folder.glob(pattern))
    others = sorted({p.parent for p in islice(below, LOOKED_AT) if NAME.fullmatch(p.name)})
    hint = "; or name the folder that has such files: " + ", ".join(map(str, others[:SHOWN]))
    holds = f"it holds {listed(names)}" if names else "it is empty"
    message = f"{name}: no {file}[.gz] there, {holds}"
    raise Missing(message, f"put it there, or correct the folder{hint if others else ''}")


def files_of(root: Path, endings: tuple[str, ...] = ("",)) -> dict[str, Path]:
    """Return the files train.*, test.* and perhaps validation.* of a folder; of a file, as train.

    Args:
        root: data.root, the folder or the file.
        endings: of the names, such as .csv; without them any.

    Raises:
        DataError: one is missing, or there are two for a split.
    """
    kind = f"file {' or '.join(endings)}".rstrip()
    with reading(root):
        inside = None
        if stat.S_ISDIR(root.stat().st_mode):
            inside = sorted(path for path in root.iterdir() if path.is_file())
    if inside is None:
        if not root.name.lower().endswith(endings):
            message = f"data.root={root}: is not a {' or '.join(endings)} file"
            raise DataError(message, "give one, or a folder of such files")
        return {"train": root}
    files = {}
    for split in SPLITS:
        mine = [p for p in inside if p.stem == split and p.name.lower().endswith(endings)]
        if len(mine) > 1:
            names = ", ".join(path.name for path in mine)
            raise DataError(f"data.root={root}: has {names}", f"leave one file of {split} there")
        if mine:
            files[split] = mine[0]
        elif split != "validation":
            holds = ", ".join(path.name for path in inside[:SHOWN]) or "no file"
            message = f"data.root={root}: no {kind} {split}.* there, it holds {holds}"
            raise DataError(message, "name the files train.*, test.* and perhaps validation.*")
    return files


def _meaning(name: str) -> tuple[str, str, str]:
    """Return the data set, the split and the kind that the name of a file stands for."""
    match = NAME.fullmatch(name)
    assert match is not None
    split = match["split"].lower().replace("test", "t10k")
    return match["set"].lower(), split, match["kind"].lower()
