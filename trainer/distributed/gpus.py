"""Which GPUs the environment shows to a process. Imports nothing: scripts/ use it as well."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import takewhile

VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible(environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the GPUs that CUDA_VISIBLE_DEVICES names; None: it is not set, all are visible.

    As CUDA reads it: the list ends at the first that is no GPU. So nothing, -1 and SLURM's
    NoDevFiles show none.
    """
    text = environ.get(VARIABLE)
    if text is None:
        return None
    named = (name.strip() for name in text.split(","))
    return tuple(takewhile(re.compile(r"\d+|(GPU|MIG)-.+").fullmatch, named))
