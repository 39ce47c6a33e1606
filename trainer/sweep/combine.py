"""What a sweep consists of: every combination of the values given, each with a name of its own.

Nothing here touches a file, and nothing here knows how a command line is parsed.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from trainer.job.errors import ConfigError

SEED = "run.seed"
_PLAIN = re.compile(r"[A-Za-z0-9_.,+@:~\[\]-]")  # what a value shows in a folder's name as it is
_LONGEST = 120  # characters of a name, far below what file systems allow
_KEPT = 100  # of a longer one, before its digest


class Member(NamedTuple):
    """One training run of a sweep."""

    name: str  # of its folder
    values: dict[str, str]  # swept option -> its value, both as on the command line
    overrides: tuple[str, ...]  # all of them: those of the sweep, and the values


def combine(swept: Mapping[str, Sequence[str]], fixed: Sequence[str]) -> list[Member]:
    """Return the members of a sweep; the values of the last option change fastest.

    Args:
        swept: option -> its values, as on the command line.
        fixed: the overrides that all members have in common.

    Raises:
        ConfigError: nothing is swept, or a combination comes twice.
    """
    if not swept:
        raise ConfigError(
            "-m: no option has several values: give one some, like optim.lr=0.02,0.05, or leave "
            "out -m to train once"
        )
    members: dict[str, Member] = {}
    for combination in itertools.product(*swept.values()):
        values = dict(zip(swept, combination, strict=True))
        member = member_of(values, fixed)
        if member.name in members:
            raise ConfigError(f"-m: {member.name} comes twice: give each value of an option once")
        members[member.name] = member
    return list(members.values())


def member_of(values: Mapping[str, str], fixed: Sequence[str]) -> Member:
    """Return the member that has these values, the same in whatever order they are given."""
    ordered = dict(sorted(values.items(), key=lambda item: (item[0] == SEED, item[0])))
    overrides = (*fixed, *(f"{key}={value}" for key, value in ordered.items()))
    return Member(name_of(ordered), ordered, overrides)


def name_of(values: Mapping[str, str]) -> str:
    """Return the name of a folder for swept values: `optim.lr=0.02,run.seed=0`.

    Other characters are escaped like in an address (%2F), and a long name is cut and ends with a
    digest of all of it; no two combinations of values have one name.
    """
    name = ",".join(f"{_escape(key)}={_escape(value)}" for key, value in values.items())
    return name if len(name) <= _LONGEST else f"{name[:_KEPT]}~{_digest(name)}"


def folder_name(overrides: Sequence[str]) -> str:
    """Return the name of a sweep's folder, the same for the same overrides in whatever order."""
    return f"sweep-{_digest(*sorted(overrides))}"


def _escape(text: str) -> str:
    # Not the comma: what follows one is a new option only with an equals sign, escaped in values.
    return "".join(
        c if _PLAIN.fullmatch(c) else "".join(f"%{byte:02X}" for byte in os.fsencode(c))
        for c in text
    )


def _digest(*lines: str) -> str:
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()[:10]
