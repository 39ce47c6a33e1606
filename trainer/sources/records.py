"""ArrayRecord files of examples -> a Dataset, decoded once to arrays that are mapped into memory.

A record holds all fields of an example, so an array of one field would read each record as often
as there are fields. In the cache, each field is a file of its own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.config.schema import DataConfig
from trainer.data import digests
from trainer.data.dataset import Dataset
from trainer.data.report import Report
from trainer.data.split import with_test
from trainer.formats import cache, records
from trainer.formats.find import files_of
from trainer.job.directory import expanded
from trainer.job.errors import DataError, reading

POLLED = 1024  # examples between two calls of `done`


def load(data: DataConfig, report: Report) -> Dataset:
    """Return the examples in a folder of train.*, test.* and perhaps validation.*, or in one file.

    Of one file, a fraction of the examples is held out for testing; which ones depends on the
    file alone.

    Raises:
        ConfigError: as cache.decoded, or there is nothing to test on.
        DataError: a file is missing or damaged, or its records are not alike; names it.
    """
    files = files_of(expanded(str(data.root), "data.root"), records.ENDINGS)

    def decode(folder: Path, done: Callable[[int], None]) -> tuple[dict[str, Any], dict[str, str]]:
        sums = dict[str, str]()
        for split, file in files.items():
            with reading(file):
                sums[file.name] = digests.of_file(file, report.poll)
            count, examples = records.read(file)
            arrays = dict[str, Any]()
            for number, example in enumerate(examples):
                for field, value in () if arrays else example.items():
                    if "/" in field:
                        message = f"{file}: field {field} has a slash in its name"
                        raise DataError(message, "write the records with another name")
                    path = folder / f"{split}_{field}.npy"
                    arrays[field] = cache.create(path, value.dtype, (count, *value.shape))
                for field, value in example.items():
                    arrays[field][number] = value
                if number % POLLED == 0:
                    done(POLLED * sum(value.nbytes for value in example.values()))
        return {"sha256": "".join(sums.values())}, sums

    names = {file.name: file for file in files.values()}
    arrays, about = cache.decoded(data.cache_dir, "records", names, {}, decode, report)
    return Dataset("records", **with_test(arrays, data.test_fraction, about["sha256"]))
