"""ArrayRecord files of examples -> a Dataset, decoded once to arrays that are mapped into memory.

A record holds all fields of an example, so an array of one field would read each record as often
as there are fields. In the cache, each field is a file of its own.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from trainer.data.dataset import Dataset, Examples
from trainer.data.mapped import Mapped
from trainer.data.split import divided
from trainer.formats import cache, records
from trainer.formats.download import Progress
from trainer.formats.find import files_of
from trainer.job.directory import expanded
from trainer.job.errors import DataError

POLLED = 4096  # examples between two calls of `poll`


def load(
    root: str,
    cache_dir: str,
    test_fraction: float,
    *,
    progress: Progress,
    poll: Callable[[], None],
    warn: Callable[[str], None],
) -> Dataset:
    """Return the examples in a folder of train.*, test.* and perhaps validation.*, or in one file.

    Of one file, a fraction of the examples is held out for testing; which ones depends on the
    file alone.

    Raises:
        ConfigError: as cache.decoded, or there is nothing to test on.
        DataError: a file is missing or damaged, or its records are not alike; names it.
    """
    path = expanded(root, "data.root")
    files = files_of(path, "data.root", records.ENDINGS)
    source = cache.Source("records", {}, {file.name: file for file in files.values()})
    decode = partial(_decode, files, progress, poll)
    arrays = cache.decoded(cache_dir, source, decode, poll=poll, warn=warn)
    splits: dict[str, Examples] = {split: {} for split in files}
    for name, array in arrays.arrays.items():
        split, _, field = name.partition("-")
        splits[split][field] = Mapped(array)
    if "test" not in splits:
        identity, option = arrays.about["sha256"], "data.test_fraction"
        parts = divided(splits["train"], identity, option, test_fraction)
        splits["train"], splits["test"] = parts
    return Dataset("records", splits["train"], splits["test"], validation=splits.get("validation"))


def _decode(
    files: Mapping[str, Path], progress: Progress, poll: Callable[[], None], folder: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """Write an array for each field of each split: SPLIT-FIELD.npy."""
    digests = {file.name: cache.sha256_of(file, poll) for file in files.values()}
    for split, file in files.items():
        examples, arrays = records.count(file), dict[str, Any]()
        total = file.stat().st_size
        for number, example in enumerate(records.read(file)):
            for field, value in example.items():
                if number == 0:
                    if "/" in field:
                        message = f"{file}: field {field} has a slash in its name"
                        raise DataError(message, "write the records with another name")
                    shape, name = (examples, *value.shape), folder / f"{split}-{field}.npy"
                    arrays[field] = cache.create(name, value.dtype, shape)
                arrays[field][number] = value
            if number % POLLED == 0:
                progress(f"decoding {file.name}", total * number // examples, total)
                poll()
        progress(f"decoding {file.name}", total, total)
    return {"sha256": "".join(digests.values())}, digests
