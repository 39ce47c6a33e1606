"""What a compiled program sends between devices, read out of its HLO text."""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "reduce-scatter",
)
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}
# `%name = RESULT all-reduce(...)`; RESULT is a shape or, of several arrays, a tuple of shapes.
_RESULT, _NAME = r"(?P<result>\(.*?\)|\S+)", f"(?P<name>{'|'.join(COLLECTIVES)})"
_INSTRUCTION = re.compile(rf"^\s*(?:ROOT )?%?\S+ = {_RESULT} {_NAME}(?:-start)?\(", re.MULTILINE)
_SHAPE = re.compile(r"\b(" + "|".join(_BYTES) + r")\[([\d,]*)\]")


class Traffic(NamedTuple):
    """What the program's text holds; a loop's body counts once, so this is one step."""

    collectives: dict[str, int]  # kind -> how many; an all-reduce of a tuple is one
    arrays: list[int]  # elements of each array that they combine
    bytes: int  # of all of them


def traffic(text: str) -> Traffic:
    """Count the collectives in the HLO text of a compiled program, and what they carry.

    Where a collective is split into start and done, the result of the start is what counts.
    """
    kinds: Counter[str] = Counter()
    arrays: list[int] = []
    size = 0
    for match in _INSTRUCTION.finditer(text):
        kinds[match["name"]] += 1
        for dtype, dims in _SHAPE.findall(match["result"]):
            count = 1
            for dim in filter(None, dims.split(",")):
                count *= int(dim)
            arrays.append(count)
            size += count * _BYTES[dtype]
    return Traffic(dict(kinds), arrays, size)
