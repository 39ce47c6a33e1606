"""conf/ and scripts/, which come with the code, and the user's own folder of options."""

import os
from pathlib import Path

CONFIG_DIR = "TRAINER_CONFIG_DIR"  # --config-dir, for this process and for its children

_PACKAGE = Path(__file__).resolve().parents[1]


def home() -> Path:
    """Return the folder with conf/ and scripts/: the installed package, or the checkout."""
    return _PACKAGE.parent if is_checkout() else _PACKAGE


def is_checkout() -> bool:
    """Return whether this is a checkout; only an installed package holds conf/ itself."""
    return not (_PACKAGE / "conf").is_dir()


def config_dir() -> Path:
    """Return the folder of every option with its default."""
    return home() / "conf"


def config_dirs() -> list[Path]:
    """Return the folders that Hydra searches for a file: --config-dir, if given, comes first."""
    own = os.environ.get(CONFIG_DIR)
    return [*([Path(own)] if own else []), config_dir()]


def how_to_install(name: str) -> str:
    """Return the hint for a package that is missing: how to install an extra of pyproject.toml."""
    where = f"'.[{name}]' in the checkout" if is_checkout() else f"'exact-trainer[{name}]'"
    return f"install the extra `{name}`: pip install {where}"
