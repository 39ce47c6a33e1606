"""Which files of a folder are the splits of a data set."""

from pathlib import Path

from trainer.job.errors import DataError

SPLITS = ("train", "validation", "test")
SHOWN = 8  # names in a message


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
    if not root.is_dir():
        if endings is not None and root.suffix.lower() not in endings:
            raise DataError(f"{option}={root}: is no {kind}", "give one, or a folder of such files")
        return {"train": root}
    found = sorted(path for path in root.iterdir() if path.is_file())
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
