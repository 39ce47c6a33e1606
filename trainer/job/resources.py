"""What comes with the code: conf/ and scripts/, in the installed package or beside it."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def home() -> Path:
    """Return the folder with conf/ and scripts/: the installed package, or the checkout."""
    return _PACKAGE.parent if is_checkout() else _PACKAGE


def is_checkout() -> bool:
    """Return whether this is a checkout; only an installed package holds conf/ itself."""
    return not (_PACKAGE / "conf").is_dir()


def how_to_install(name: str) -> str:
    """Return the hint for a package that is missing: how to install an extra of pyproject.toml."""
    where = f"'.[{name}]' in the checkout" if is_checkout() else f"'exact-trainer[{name}]'"
    return f"install the extra `{name}`: pip install {where}"
