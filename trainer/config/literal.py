"""Texts on the command line, as they are meant: Hydra's grammar would read a number or a list."""

from __future__ import annotations

import re
from collections.abc import Sequence

TEXTS = (
    *("run.name", "run.dir", "run.root", "data.root", "data.cache_dir"),
    "train.compilation_cache_dir",
)
# Hydra's own: nothing, null, what is quoted already, interpolations, and a list or a sweep.
_HYDRAS = re.compile(r"null|['\"\[].*|.*\$\{.*|.*,.*|", re.DOTALL)


def quoted(text: object) -> str:
    """Return a text as Hydra's grammar reads it back."""
    escaped = re.sub(
        r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), str(text)
    )
    return f"'{escaped}'"


def literal(arguments: Sequence[str]) -> list[str]:
    """Quote the values of names and folders: 12e4567 is a name, not an infinite number."""
    return [_literal(argument) for argument in arguments]


def _literal(argument: str) -> str:
    name, equals, value = argument.partition("=")
    if not equals or name.lstrip("+") not in TEXTS or _HYDRAS.fullmatch(value):
        return argument
    return f"{name}={quoted(value)}"
