"""Load the Python file or module of a user, which the configuration names, and its options.

Whatever is wrong with it becomes a ConfigError that names the user's file and line, never a
traceback through the trainer.
"""

import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import modulefinder
import os
import sys
import traceback
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainer.config.explain import rule_of
from trainer.job.directory import expanded
from trainer.job.errors import ConfigError, TrainerError
from trainer.job.resources import CONFIG_DIR

_HINTS = {  # part of an error of the user's code -> what to do
    "TracerBoolConversionError": "Use jnp.where or jax.lax.cond instead of `if`",
    "TracerArrayConversionError": "Use jax.numpy instead of numpy",
    "unexpected PRNG key type <class 'NoneType'>": "`key` is None outside training: draw nothing",
    "'dict' object has no attribute": "Are the options in a dataclass `Options`?",
}
_PREFIX = "user_file_"  # of the names of modules that are loaded from a file
_read: dict[str, str] = {}  # file that a user's file imports -> its text as it was imported
_given: dict[str, Any] = {}  # name -> an object that takes the place of a module


def give(group: str, module: Any) -> str:
    """Return a name by which `load` finds an object with the functions of a user's module."""
    name = f"given:{group}:{getattr(module, '__name__', type(module).__name__)}"
    _given[name] = module
    return name


def _is_file(name: str) -> bool:
    """Return whether a name in the configuration means a file, not a dotted module name."""
    return name.endswith(".py") or "/" in name


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
    if not _is_file(name):
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
        return sha256 in digests(_with_imports(path)[0])
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


def _with_imports(path: Path, dotted: str = "") -> tuple[dict[str, str], dict[str, str]]:
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


def file_of(option: str, name: str) -> Path:
    """Return the file, absolute, that a name means: here, in --config-dir, or beside that."""
    path = expanded(name, option)
    if (config_dir := os.environ.get(CONFIG_DIR)) and not path.is_file():
        for folder in (Path(config_dir), Path(config_dir).parent):  # as `new` puts them
            if (folder / path).is_file():
                path = folder / path
                break
    return path.absolute()


def load(option: str, name: str) -> Any:
    """Import the file or the module that an option names.

    Args:
        option: the option, for messages: "model.module".
        name: its value, a file ("digits_cnn.py") or a dotted name ("my.models.cnn").

    Raises:
        ConfigError: it does not exist, or importing it fails; names the user's line.
    """
    if name in _given:
        return _given[name]
    if (here := str(Path.cwd())) not in sys.path:  # python -m searches it, but not `trainer`
        sys.path.append(here)
    if not _is_file(name):
        own = None
        with readable(option, name):
            try:
                own = importlib.import_module(name) if name else None
            except ModuleNotFoundError as error:
                if not f"{name}.".startswith(f"{error.name}."):  # a module that it imports
                    raise
        if getattr(own, "__file__", None) is None:  # also of a folder of files
            hint = "give the file (my_model.py), or a dotted name that Python can import from here"
            raise ConfigError(f"{option}={name}: there is no such module", hint)
        return own
    path = file_of(option, name)
    if not path.is_file():
        raise ConfigError(f"{option}={name}: there is no such file", f"it would be {path}")
    with readable(option, name):
        texts, imported = _with_imports(path)
    # A name of its own in sys.modules: the user's file may be called like a package. It is
    # another one when a file has changed: someone edits it, and calls `fit` again.
    digest = hashlib.sha256(f"{path}{texts}".encode()).hexdigest()[:8]
    unique = f"{_PREFIX}{digest}_{path.stem}"
    if unique in sys.modules:
        return sys.modules[unique]
    for beside, file in imported.items():
        # An import would give the file as it was, or another of its name, from another folder.
        here, there = str(path.parent / file), getattr(sys.modules.get(beside), "__file__", None)
        changed = there != here or _read.get(here, texts[file]) != texts[file]
        if there and changed and _is_users(there):
            del sys.modules[beside]
        _read[here] = texts[file]
    if str(path.parent) not in sys.path:  # for the files beside it
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(unique, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module  # dataclasses look themselves up there
    sys.path.insert(0, str(path.parent))  # as if it were run as a script
    try:
        with readable(option, name):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[unique]
        raise
    finally:
        with suppress(ValueError):  # the file has changed the path
            sys.path.remove(str(path.parent))
    return module


@contextmanager
def readable(option: str, name: str) -> Iterator[None]:
    """Turn what the user's code raises into a ConfigError with the part of the traceback in it."""
    try:
        yield
    except TrainerError:
        raise
    except (Exception, SystemExit) as error:  # argparse ends the process
        own = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename)]
        lines = [f"  {frame.filename}:{frame.lineno}: {frame.line}" for frame in own[-3:]]
        if isinstance(error, SyntaxError) and error.filename:
            lines = [f"  {error.filename}:{error.lineno}: {(error.text or '').strip()}"]
        # What follows in jax's message is about our functions, through which it traced.
        text = str(error).partition("The error occurred while tracing")[0].strip() or "no message"
        lines_of_text = " ".join(text.splitlines()[:3])
        message = f"{option}={name}: {type(error).__name__}: {lines_of_text}"
        message += next((f" {hint}" for part, hint in _HINTS.items() if part in message), "")
        raise ConfigError("\n".join([message, *lines])) from None


def _is_users(filename: str) -> bool:
    """Return whether a file is neither of an installed package, nor of Python, nor ours."""
    ours = Path(__file__).resolve().parents[1]
    path = Path(filename)
    if filename.startswith("<") or path.is_relative_to(ours):
        return False
    return "site-packages" not in path.parts and not path.is_relative_to(Path(os.__file__).parent)


def options(option: str, module: Any, name: str, given: Mapping[str, Any]) -> Any:
    """Return the options of a user's module: its dataclass with the given values; {} without one.

    Args:
        option: where they are given, for messages: "model.options".
        module: the user's.
        name: of the dataclass in it.
        given: field -> value, from YAML and the command line.

    Raises:
        ConfigError: an option is misspelt, missing or of the wrong type.
    """
    kind = getattr(module, name, None)
    file = file_name(module)
    if kind is None and not given:
        return {}
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        what = "has no dataclass" if kind is None else "does not make a dataclass of"
        raise ConfigError(f"{option}: {file} {what} {name}", f"write @dataclass class {name}: ...")
    fields = [field.name for field in dataclasses.fields(kind)]
    for key in given:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"{file} has {', '.join(fields)}"
            raise ConfigError(f"{option}.{key} is not an option of {file}", hint)
    try:
        typed = OmegaConf.merge(OmegaConf.structured(kind), dict(given))
        if missing := sorted(OmegaConf.missing_keys(typed)):
            raise ConfigError(f"{option}.{missing[0]} needs a value", f"{file} gives it none")
        with readable(option, file):
            made: Any = OmegaConf.to_object(typed)
            hints = typing.get_type_hints(kind)
            tuples = [name for name in fields if typing.get_origin(hints[name]) is tuple]
            # OmegaConf makes lists of them.
            return dataclasses.replace(
                made, **{name: tuple(getattr(made, name)) for name in tuples}
            )
    except OmegaConfBaseException as error:
        key = str(error.full_key or "").removeprefix(".")
        value = OmegaConf.select(OmegaConf.create(dict(given)), key, default="") if key else ""
        rule = rule_of(str(error)) or str(error).partition("\n")[0]
        raise ConfigError(f"{option}.{key}" + ("" if value == "" else f"={value}"), rule) from None


def file_name(module: Any) -> str:
    """Return what to call a user's module in messages."""
    file = getattr(module, "__file__", None) or getattr(module, "__name__", type(module).__name__)
    return Path(str(file)).name


def sources(module: Any) -> dict[str, str]:
    """Return file -> text of a user's module and of the files in its folder that it imports.

    Its own is the first. Without a file, it is the text of its functions; of an installed module,
    its file alone.
    """
    file = getattr(module, "__file__", None)
    if file and _is_users(file):
        name = module.__name__
        return _with_imports(Path(file), "" if name.startswith(_PREFIX) else name)[0]
    if file:
        return {Path(file).name: Path(file).read_text("utf-8", "replace")}
    texts = []
    for value in vars(module).values():
        with suppress(OSError, TypeError):  # no function, or typed into an interpreter
            texts.append(inspect.getsource(value))
    return {file_name(module): "\n".join(texts)}
