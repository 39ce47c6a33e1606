"""Which files a user's module is made of, their digest, and the copies that a run keeps of them."""

import hashlib
import inspect
import modulefinder
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def is_file(name: str) -> bool:
    """Return whether a name in the configuration means a file, not a dotted module name."""
    return name.endswith(".py") or "/" in name


def is_users(filename: str) -> bool:
    """Return whether a file is neither of an installed package, nor of Python, nor ours."""
    ours = Path(__file__).resolve().parents[1]
    path = Path(filename)
    if filename.startswith("<") or path.is_relative_to(ours):
        return False
    return "site-packages" not in path.parts and not path.is_relative_to(Path(os.__file__).parent)


def file_name(module: Any) -> str:
    """Return what to call a user's module in messages."""
    file = getattr(module, "__file__", None) or getattr(module, "__name__", type(module).__name__)
    return Path(str(file)).name


def of_run(
    run: Path, section: str, name: str, recorded: str | None, sha256: str | None = None
) -> str:
    """Return where a module of a run is now: where it was, or else in the copy that the run keeps.

    Args:
        run: the run directory.
        section: "model" or "data".
        name: the value of its option `module`.
        recorded: the absolute path of the file, if the checkpoint has it.
        sha256: of the file that the run was trained with: it is preferred.
    """
    if not is_file(name):
        return name
    name = recorded or name
    prefixes = (f"{section}/", f"{section}-", "")  # the second: of older versions
    kept = [run / ".hydra" / f"{prefix}{Path(name).name}" for prefix in prefixes]
    there = [path for path in (Path(name), *kept) if path.is_file()]
    trained = (path for path in there if sha256 is not None and _is_same(path, sha256))
    chosen = str(next(trained, None) or next(iter(there), name))
    if chosen != name and (beside := str(Path(name).parent)) not in sys.path:
        sys.path.append(beside)  # older versions kept no files that it imports
    return chosen


def _is_same(path: Path, sha256: str) -> bool:
    try:
        return sha256 in digests(with_imports(path)[0])
    except (SyntaxError, ValueError):  # it is no Python now; the latter: zeros in it
        return False


def digests(files: Mapping[str, str]) -> tuple[str, str]:
    """Return the SHA-256 of the sources of a module, and that of older versions: of its own file.

    Args:
        files: what `sources` returns.
    """
    own, *imported = files.items()
    texts = (own[1], "".join([own[1], *(f"\n# {name}\n{text}" for name, text in imported)]))
    first, whole = (hashlib.sha256(text.encode()).hexdigest() for text in texts)
    return whole, first


def with_imports(path: Path, dotted: str = "") -> tuple[dict[str, str], dict[str, str]]:
    """Return the sources of a user's file and of the files in its folder that it imports.

    Nothing is run, and no file outside the folder is looked at.

    Args:
        path: the file.
        dotted: its name as a module of a package; the folder is then that of the whole package.

    Returns:
        file -> text, where the files are relative to the folder, and its own is the first;
        module -> file of what it imports.

    Raises:
        SyntaxError: the file is no Python.
    """
    folder = path.parents[dotted.count(".") + (bool(dotted) and path.name == "__init__.py")]
    finder = modulefinder.ModuleFinder([str(folder)], excludes=["trainer"])
    if dotted:
        finder.import_hook(dotted)
    else:
        finder.run_script(str(path))
    own = str(path.relative_to(folder))
    modules = {
        name: str(Path(file).relative_to(folder))
        for name, module in finder.modules.items()
        # A namespace package has no file, and what is compiled is no source.
        if (file := getattr(module, "__file__", None) or "").endswith(".py") and name != "__main__"
    }
    files = [own, *sorted({*modules.values()} - {own})]
    return {name: (folder / name).read_text("utf-8", "replace") for name in files}, modules


def sources(module: Any) -> dict[str, str]:
    """Return file -> text of a user's module and of the files in its folder that it imports.

    Its own is the first. Without a file, it is the text of its functions; of an installed module,
    its file alone.
    """
    file = getattr(module, "__file__", None)
    if file and is_users(file):
        path, parts = Path(file), module.__name__.split(".")
        own = path.parent if path.name == "__init__.py" else path.with_suffix("")
        # A file that is loaded by its path has another name: ours, or __main__ of a script.
        is_imported = [*own.parts[-len(parts) :]] == parts
        return with_imports(path, module.__name__ if is_imported else "")[0]
    if file:
        return {Path(file).name: Path(file).read_text("utf-8", "replace")}
    texts = []
    for value in vars(module).values():
        with suppress(OSError, TypeError):  # no function, or typed into an interpreter
            texts.append(inspect.getsource(value))
    return {file_name(module): "\n".join(texts)}
