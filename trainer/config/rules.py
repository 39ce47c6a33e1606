"""Fields for the options of the schema, each with a test of its values, and who applies it."""

import math
import re
from collections.abc import Callable
from dataclasses import field, fields
from functools import partial
from typing import Any, ClassVar

from trainer.job.errors import ConfigError


def check(ok: bool, option: str, value: object, rule: str) -> None:
    """Raise ConfigError, with the option, its value and the rule, unless something is true."""
    if not ok:
        raise ConfigError(f"{option}={'null' if value is None else value}: {rule}")


def ruled(
    test: Callable[[Any], bool] = lambda value: True,
    rule: str = "",
    *,
    of: tuple[str, ...] = (),
    by: str = "name",
    example: str | None = None,
) -> Any:
    """Return a field whose values have to pass a test; None passes, where the type allows it.

    Args:
        test: whether a value is right.
        rule: which values are, for messages.
        of: the choices that have this option; with another one it has to be left out.
        by: the option of the same section that makes the choice.
        example: of a value, if those choices require one.
    """
    return field(metadata={"test": test, "rule": rule, "of": of, "by": by, "example": example})


def whole(least: int, most: int = 2**31 - 1, **of: Any) -> Any:
    """Return a field for whole numbers from `least` to `most`."""
    rule = f"use a whole number from {least} to {most}"
    return ruled(lambda value: least <= value <= most, rule, **of)


def whole_or_auto() -> Any:
    """Return a field of type Any, because OmegaConf 2.3 merges no union: a number, or auto."""
    return ruled(
        lambda value: value == "auto" or (type(value) is int and 1 <= value < 2**31),
        "use a whole number from 1 up, or auto",
    )


def one_of(*choices: str, **of: Any) -> Any:
    """Return a field for one of some words."""
    return ruled(lambda value: value in choices, f"use one of {', '.join(choices)}", **of)


def _is_utf8(text: str) -> bool:  # else the command line held other bytes
    return text.encode(errors="ignore").decode() == text


positive = partial(ruled, lambda x: math.isfinite(x) and x > 0, "use a finite number above 0")
finite = partial(ruled, math.isfinite, "use a finite number, or null to measure it")
fraction = partial(ruled, lambda x: 0 <= x < 1, "use a number in [0, 1)")
own = partial(ruled, lambda x: isinstance(x, dict), "give each by its name: options.NAME=VALUE")


def is_visible(text: str) -> bool:
    """Return whether a text has nothing that a terminal does not show."""
    # A script with Windows line ends adds a carriage return.
    return _is_utf8(text) and text.isprintable() and text.strip() == text


def _is_folder(name: str) -> bool:  # gs://bucket would become a folder called gs:
    return name != "" and _is_utf8(name) and re.match(r"\w+://", name) is None


folder = partial(ruled, _is_folder, "name a folder, in UTF-8; addresses are not supported")


class Section:
    """A section of the configuration: checks each field by its own rules (see `ruled`)."""

    section: ClassVar[str | None] = None  # its path, where it is not that of the class

    def __post_init__(self) -> None:
        """Raise ConfigError if a value breaks a rule."""
        section = self.section or type(self).__name__.removesuffix("Config").lower()
        for option in fields(self):  # type: ignore[arg-type]
            value, rules, name = getattr(self, option.name), option.metadata, option.name
            if rules and (value is not None or option.type == "Any"):  # Any would allow None
                check(rules["test"](value), f"{section}.{name}", value, rules["rule"])
            if not (rules and rules["of"]):
                continue
            choice, value = getattr(self, rules["by"]), None if value in ({}, []) else value
            option_of = section if rules["by"] == "name" else f"{section}.{rules['by']}"
            if choice not in rules["of"]:
                rule = f"only {option_of}={' or '.join(rules['of'])} has it: choose that, or leave "
                check(value is None, f"{section}.{name}", value, f"{rule}it out")
            elif rules["example"]:
                rule = f"{option_of}={choice} needs it, like {section}.{name}={rules['example']}"
                check(value is not None, f"{section}.{name}", value, rule)
