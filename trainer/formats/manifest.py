"""A manifest of data files, as sha256sum writes it: each file is there, whole and unchanged.

cd DIR && find . -type f ! -name SHA256SUMS -exec sha256sum {} + > SHA256SUMS
"""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from trainer.data.digests import of_file, remembered
from trainer.formats.download import Progress
from trainer.job.directory import expanded
from trainer.job.errors import DataError
from trainer.job.files import LARGEST_LOG, Damaged, read_bytes

LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def check(
    name: str, root: str, cache_dir: str, *, progress: Progress, poll: Callable[[], None]
) -> None:
    """Check every file that a manifest names.

    The files are read only if the name, size or time of one is not as it was when all of them were
    right, which the cache folder remembers.

    Args:
        name: data.manifest, a path; a relative one is in the folder of the data.
        root: data.root, the folder of the data, or a file in it.
        cache_dir: data.cache_dir.
        progress: called with what is done, bytes so far, bytes in all.
        poll: called now and then; may raise.

    Raises:
        DataError: the manifest or a file is missing, cut short or changed; names it.
    """
    data = expanded(root, "data.root").absolute()
    folder = data if os.path.isdir(data) else data.parent  # noqa: PTH112 - Path raises if a parent is closed
    path = folder / expanded(name, "data.manifest")
    where = f"data.manifest={path}"
    try:
        text = read_bytes(path, LARGEST_LOG).decode("utf-8", "surrogateescape")
    except (OSError, Damaged) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{where}: cannot be read ({reason})", "correct the path") from None
    digests = dict[Path, str]()
    for number, line in enumerate(text.splitlines(), start=1):
        if (match := LINE.fullmatch(line)) is None:
            message = f"{where}: line {number} is not DIGEST  FILE"
            raise DataError(message, "write the manifest by sha256sum")
        digests[path.parent / match[2]] = match[1]
    if not digests:
        raise DataError(f"{where}: it names no file", "write it by sha256sum")
    stamp, total = hashlib.sha256(text.encode("utf-8", "surrogateescape")), 0
    for file in digests:
        try:
            status = file.stat()
        except OSError as error:
            hint = "put it back, or leave it out of the manifest"
            raise DataError(f"{file}: is in {path.name}, but {error.strerror}", hint) from None
        total += status.st_size
        stamp.update(repr((str(file), status.st_size, status.st_mtime_ns)).encode())

    def read_all() -> str:
        done = 0
        for file, digest in digests.items():
            poll()
            progress(f"checking {path.name}", done, total)
            try:
                right = of_file(file, poll) == digest
                done += file.stat().st_size
            except OSError as error:
                message = f"{file}: cannot be read ({error.strerror})"
                raise DataError(message, "correct its permissions") from None
            if not right:
                progress(f"checking {path.name}", 0, 0)
                message = f"{file}: its SHA-256 is not that in {path.name}: it was changed or cut"
                raise DataError(message, "copy the file again, or renew the manifest")
        progress(f"checking {path.name}", total, total)
        return stamp.hexdigest()

    if remembered(stamp.hexdigest(), cache_dir, read_all) != stamp.hexdigest():
        read_all()
