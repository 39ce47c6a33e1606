"""Harm to the files of a run directory, as half a copy, an editor or another version does it."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.checkpoint.checksums import of_json

HUGE = "a number that JSON allows and no float holds"
VALUES = (
    *(None, True, False, 0, -1, 1, 3.5, 2**31, 2**63, -(2**70), 10**400, HUGE, float("nan")),
    *("", "x", "NaN", "completed", "2026-01-01", "\ud800", "\0", "9" * 500, [], {}, [[]], {"a": 1}),
    *([None], ["x"], [1, 2, 3], {"name": None}, {"": {}}),
)
DEEP = b"[" * 100_000
TOO_LARGE = "a file that is too large"


def text_of(value: Any) -> bytes:
    """Return JSON, with a number out of range where the value says so."""
    return json.dumps(value).replace(json.dumps(HUGE), "1e999").encode()


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """Seal a record as another version of the trainer would, whatever is in it."""
    record = {key: value for key, value in record.items() if key != "sha256"}
    return {**record, "sha256": of_json(record)}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values inside a value of JSON."""
    paths, inner = [path], value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value) if isinstance(value, list) else inner:
        paths += places(item, (*path, key))
    return paths


def change_value(value: Any, rng: random.Random) -> Any:
    """Replace, rename, delete or nest one value somewhere in a value of JSON."""
    value = json.loads(json.dumps(value))
    place = rng.choice(places(value))
    if not place:
        return rng.choice(VALUES)
    *parents, last = place
    holder = value
    for key in parents:
        holder = holder[key]
    kind = rng.randrange(6)
    if kind == 0:
        del holder[last]
    elif kind == 1 and isinstance(holder, dict):
        holder[f"{last}_"] = holder.pop(last)
    elif kind == 2:
        for _ in range(rng.choice((1, 40, 400))):
            holder[last] = [holder[last]]
    else:
        holder[last] = rng.choice(VALUES)
    return value


def change_json(path: Path, rng: random.Random) -> None:
    """Change a value in a file of JSON; the record of a checkpoint is mostly sealed again."""
    value = change_value(json.loads(path.read_bytes()), rng)
    if path.name == "record.json" and isinstance(value, dict) and rng.random() < 0.9:
        value = sealed(value)
    path.write_bytes(text_of(value))


def change_line(path: Path, rng: random.Random) -> None:
    """Change a value in one line of metrics.jsonl."""
    lines = path.read_bytes().splitlines()
    number = rng.randrange(len(lines))
    lines[number] = text_of(change_value(json.loads(lines[number]), rng))
    path.write_bytes(b"\n".join(lines) + b"\n")


def change_bytes(path: Path, rng: random.Random) -> None:
    """Cut, empty, flip, repeat, overwrite or nest the bytes of a file."""
    data = bytearray(path.read_bytes())
    at, kind = rng.randrange(len(data) + 1), rng.randrange(8)
    if kind == 0:
        del data[at:]
    elif kind == 1:
        data.clear()
    elif kind == 2 and data:
        data[at - 1] ^= 1 << rng.randrange(8)
    elif kind == 3:
        data += data[: rng.randrange(200)]
    elif kind == 4:
        data[at : at + 50] = bytes(50)
    elif kind == 5:
        data[at : at + 8] = rng.randbytes(8)
    elif kind == 6:
        data[:] = DEEP
    else:
        data[at:at] = DEEP
    path.write_bytes(data)


def replace_file(path: Path, rng: random.Random) -> None:
    """Put something in the place of a file that is none, or leads elsewhere, or nothing."""
    kind = rng.choice(list(INSTEAD))
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    INSTEAD[kind](path)


def _socket(path: Path) -> None:
    folder = Path.cwd()
    os.chdir(path.parent)  # the name of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(folder)


INSTEAD: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "a pipe": os.mkfifo,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "an empty device": lambda path: path.symlink_to("/dev/null"),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to another file": lambda path: path.symlink_to("/etc/hostname"),
    "a folder": Path.mkdir,
    TOO_LARGE: lambda path: (path.touch(), os.truncate(path, 2**43)),
    "a socket": _socket,
}


def mutate(run: Path, rng: random.Random) -> str:
    """Do harm to one file or folder of a run; return what was done, in words."""
    names = sorted(str(path.relative_to(run)) for path in run.rglob("*"))
    small = [name for name in names if "/" not in name or name.endswith(("record.json", ".yaml"))]
    name = rng.choice(small if rng.random() < 0.7 else names)
    path, ways = run / name, [replace_file]
    if path.is_file():
        ways += [change_bytes]
    if path.suffix == ".json" or name == "run.lock":
        ways += 4 * [change_json]
    if path.suffix == ".jsonl":
        ways += 4 * [change_line]
    way = rng.choice(ways)
    way(path, rng)
    return f"{way.__name__}({name})"
