"""Thousands of damaged files and mistyped options: a documented error each, never anything else."""

import gzip
import random
import struct

import numpy as np
import pytest

from trainer.config import schema as trainer_config
from trainer.config.compose import compose
from trainer.config.schema import Config
from trainer.formats import idx
from trainer.job.errors import ConfigError, DataError

IMAGES = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
LABELS = np.arange(40, dtype=np.uint8) % 10


def packed(array):
    return idx.header(array.shape) + array.tobytes()


FILES = [
    data for array in (IMAGES, LABELS) for data in (packed(array), gzip.compress(packed(array)))
]


def mutate_bytes(data, rng):
    """Flip, cut, repeat, insert or overwrite; once to four times, more often near the header."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(len(data), 24) if rng.random() < 0.5 else len(data)) if data else 0
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + rng.randint(1, 20)]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.randint(1, 20))
        elif kind == 4:
            data[at : at + 4] = struct.pack(">I", rng.choice([0, 1, 2**31, 2**32 - 1, 60_000]))
        else:
            data += data[at : at + 100]
    return bytes(data)


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_read_exactly_or_refused(tmp_path):
    rng = random.Random(0)
    refused = 0
    path = tmp_path / "file"
    for number in range(10_000):
        rank = 3 if number % 4 < 2 else 1
        data = mutate_bytes(FILES[number % 4], rng)
        try:
            if number % 10:
                array = idx.parse(data, "file")
            else:  # from the disk, with the check of the labels' range
                path.write_bytes(data)
                array = idx.read_images(path) if rank == 3 else idx.read_labels(path, 10)
        except DataError as error:
            refused += "file" in str(error)
        else:  # what is accepted is what a file of exactly these bytes says
            plain = gzip.decompress(data) if data[:2] == idx.GZIP_MAGIC else data
            if (kind := idx.TYPES[plain[2]]) != "f8":  # which is rounded to 32 bits
                big = array.astype(f">{kind}")
                assert idx.header(array.shape, array.dtype) + big.tobytes() == plain
    assert refused > 8_000


VALUES = [
    *("0", "-1", "1", "3", "0.5", "1e400", "nan", "-inf", "null", "true", "''", "[]", "[1,2]"),
    *(
        "{a:1}",
        "{}",
        "abc",
        "a b",
        "ü",
        "???",
        "${run.seed}",
        "${nope}",
        "${oc.env:NOPE}",
        "'",
        "[",
    ),
    *("99999999999999999999", "1_000", "0x10", "\\", "a=b", "$(x)", "../x", "a/b", "\n", "[[1]]"),
]


def mutate_override(rng, names):
    """Return one override, mistyped in the name, the value or the grammar; now and then good."""
    name, value = rng.choice(names), rng.choice(VALUES)
    kind = rng.randrange(8)
    if kind == 0 and len(name) > 1:
        at = rng.randrange(len(name))
        name = name[:at] + rng.choice("abz._-= @/") + name[at + 1 :]
    elif kind == 1:
        name = rng.choice(["+", "++", "~", "-", "@", ""]) + name
    elif kind == 2:
        return name
    elif kind == 3:
        name = rng.choice(
            ["data", "model", "optim", "cluster", "+experiment", "experiment", "hydra"]
        )
    elif kind == 4:
        at = rng.randrange(len(value) + 1)
        value = value[:at] + rng.choice("[]{}(),:'\"$ \t") + value[at:]
    return f"{name}={value}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_hundreds_of_mistyped_command_lines_are_composed_or_refused(seed, capsys):
    rng = random.Random(seed)
    names = [
        f"{section}.{field}"
        for section, kind in Config.__annotations__.items()
        for field in getattr(trainer_config, kind).__annotations__
    ]
    refused = 0
    for _ in range(120):
        overrides = [mutate_override(rng, names) for _ in range(rng.randint(1, 2))]
        try:
            jobs = compose(["+experiment=smoke", *overrides])
        except ConfigError as error:
            refused += bool(str(error).strip())
        else:
            assert all(isinstance(job.config, Config) for job in jobs), overrides
    assert refused > 60
    assert "Traceback" not in capsys.readouterr().err
