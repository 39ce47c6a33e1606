"""Jobs with a user's file, and the message about a wrong one."""

import pytest

from trainer.config.compose import compose
from trainer.job.errors import ConfigError

OPTIONS = """
    from __future__ import annotations
    from dataclasses import dataclass, field
    from enum import Enum

    class Norm(Enum):
        layer = "layer"
        none = "none"

    @dataclass
    class Block:
        width: int = 8

    @dataclass(frozen=True)
    class Options:
        width: int = 32
        rate: float = 0.1
        sizes: list[int] = field(default_factory=lambda: [1, 2])
        norm: Norm = Norm.layer
        block: Block = field(default_factory=Block)
        steps: int | None = None
        kernel: tuple[int, int] = (3, 3)
"""


def composed(module, *options):
    given = [f"model.options.{option}" for option in options]
    return compose(["data=mnist_5k", "model=module", f"model.module={module}", *given])[0]


def message_of(module, *options):
    with pytest.raises(ConfigError) as raised:
        composed(module, *options)
    assert raised.value.exit_code == 78
    return str(raised.value)
