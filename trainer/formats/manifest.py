"""A manifest of data files, as sha256sum writes it: each file is there, whole and unchanged.

cd DIR && find . -type f ! -name SHA256SUMS -exec sha256sum {} + > SHA256SUMS
"""

import hashlib
import os
import re
from pathlib import Path

from trainer.data.digests import of_file, remembered
from trainer.data.report import Report
from trainer.job.directory import expanded
from trainer.job.errors import DataError, reading

LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def check(name: str, root: str, cache_dir: str, report: Report) -> None:
    """Check every file that a manifest names.

    The files are read only if the name, size or time of one is not as it was when all of them were
    right, which the cache folder remembers.

    Args:
        name: data.manifest, a path; a relative one is in the folder of the data.
        root: data.root, the folder of the data, or a file in it.
        cache_dir: data.cache_dir.
        report: says how far it is.

    Raises:
        DataError: the manifest or a file is missing, cut short or changed; names it.
    """
    data = expanded(root, "data.root").absolute()
    folder = data if os.path.isdir(data) else data.parent  # noqa: PTH112 - Path raises if a parent is closed
    path = folder / expanded(name, "data.manifest")
    where = f"data.manifest={path}"
    with reading(path, "correct data.manifest"):
        text = path.read_bytes()
    digests = dict[Path, str]()
    for number, line in enumerate(os.fsdecode(text).splitlines(), start=1):
        if (match := LINE.fullmatch(line)) is None:
            message = f"{where}: line {number} is not DIGEST  FILE"
            raise DataError(message, "write the manifest by sha256sum")
        digests[path.parent / match[2]] = match[1]
    if not digests:
        raise DataError(f"{where}: it names no file", "write it by sha256sum")
    stamp, total = hashlib.sha256(text), 0
    for file in digests:
        with reading(file, f"put it back, or leave it out of {path.name}"):
            status = file.stat()
        total += status.st_size
        stamp.update(repr((str(file), status.st_size, status.st_mtime_ns)).encode())
    label = f"checking {path.name}"

    def read_all() -> str:
        done = 0
        for file, digest in digests.items():
            report.progress(label, done, total)
            with reading(file, "correct its permissions"):
                is_right = of_file(file, report.poll) == digest
                done += file.stat().st_size
            if not is_right:
                report.progress(label, 0, 0)
                message = f"{file}: its SHA-256 is not that in {path.name}: it was changed or cut"
                raise DataError(message, "copy the file again, or renew the manifest")
        report.progress(label, total, total)
        return stamp.hexdigest()

    if remembered(stamp.hexdigest(), cache_dir, read_all) != stamp.hexdigest():
        read_all()
