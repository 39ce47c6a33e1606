"""Whether the finished members of a sweep were trained as its command would train them now.

The command line tells only a part of it: what it leaves open is said by conf/, which may change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from trainer.config.compose import compose_each
from trainer.config.fingerprint import FINGERPRINT, differences, select
from trainer.job.errors import ConfigError
from trainer.sweep import folder as sweep_folder
from trainer.sweep import trial
from trainer.sweep.combine import member_of

_COMPARED = (*FINGERPRINT, "train.epochs", "data.name")  # or one table would rank two trainings
_MOST = 3  # members that are named


def check(folder: Path, fixed: list[str]) -> None:
    """Refuse to go on with a sweep whose finished members were trained otherwise.

    Those that are half done are compared when they are resumed, like any run.

    Args:
        folder: of the sweep, which may not be there yet.
        fixed: the overrides that all members have in common and that matter.

    Raises:
        ConfigError: names the members and the options.
    """
    plan = sweep_folder.read_plan(folder)
    if plan is None or plan.fixed != sorted(fixed):  # the latter is refused by write_plan()
        return
    before = {}
    for name in plan.members:
        if trial.finished(folder / name) and (options := _recorded(folder / name)):
            before[name] = options
    jobs = compose_each([member_of(plan.members[name], fixed).overrides for name in before])
    changed = []
    for (name, options), job in zip(before.items(), jobs, strict=True):
        found = differences(options, _options(job.record["config.yaml"]))
        changed += [f"  {name}: {line}" for line in found]
    if changed:
        more = [f"  and {len(changed) - _MOST} more"] if len(changed) > _MOST else []
        raise ConfigError(
            f"{folder} has finished members that were trained with another configuration, and "
            "cannot be compared with new ones:\n" + "\n".join([*changed[:_MOST], *more]) + "\n"
            "Give these options, in conf/ or on the command line, as they were, or begin another "
            "sweep with run.name=NAME"
        )


def _recorded(directory: Path) -> dict[str, Any]:
    """Return what a run was trained with; nothing where that cannot be read."""
    try:
        return _options((directory / ".hydra" / "config.yaml").read_text())
    except (OSError, UnicodeError, YAMLError, OmegaConfBaseException):
        return {}


def _options(yaml: str) -> dict[str, Any]:
    """Return what is compared."""
    found = OmegaConf.to_container(OmegaConf.create(yaml))
    if not isinstance(found, dict):
        return {}
    return select({str(key): value for key, value in found.items()}, _COMPARED)
