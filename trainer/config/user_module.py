"""Load the Python file or module of a user, which the configuration names, and its options.

Whatever is wrong with it becomes a ConfigError that names the user's file and line, never a
traceback through the trainer.
"""

import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
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
from trainer.config.user_sources import file_name, is_file, is_users, with_imports
from trainer.job.directory import expanded
from trainer.job.errors import ConfigError, TrainerError
from trainer.job.resources import CONFIG_DIR

_HINTS = {  # part of an error of the user's code -> what to do
    "TracerBoolConversionError": "Use jnp.where or jax.lax.cond instead of `if`",
    "TracerArrayConversionError": "Use jax.numpy instead of numpy",
    "unexpected PRNG key type <class 'NoneType'>": "`key` is None outside training: draw nothing",
    "'dict' object has no attribute": "Are the options in a dataclass `Options`?",
}
_read: dict[str, str] = {}  # file that a user's file imports -> its text as it was imported
_given: dict[str, Any] = {}  # name -> an object that takes the place of a module


def give(group: str, module: Any) -> str:
    """Return a name by which `load` finds an object with the functions of a user's module."""
    name = f"given:{group}:{getattr(module, '__name__', type(module).__name__)}"
    _given[name] = module
    return name


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
    if not is_file(name):
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
        texts, imported = with_imports(path)
    # A name of its own in sys.modules: the user's file may be called like a package. It is
    # another one when a file has changed: someone edits it, and calls `fit` again.
    digest = hashlib.sha256(f"{path}{texts}".encode()).hexdigest()[:8]
    unique = f"user_file_{digest}_{path.stem}"
    if unique in sys.modules:
        return sys.modules[unique]
    for beside, file in imported.items():
        # An import would give the file as it was, or another of its name, from another folder.
        here, there = str(path.parent / file), getattr(sys.modules.get(beside), "__file__", None)
        changed = there != here or _read.get(here, texts[file]) != texts[file]
        if there and changed and is_users(there):
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
        own = [f for f in traceback.extract_tb(error.__traceback__) if is_users(f.filename)]
        lines = [f"  {frame.filename}:{frame.lineno}: {frame.line}" for frame in own[-3:]]
        if isinstance(error, SyntaxError) and error.filename:
            lines = [f"  {error.filename}:{error.lineno}: {(error.text or '').strip()}"]
        # What follows in jax's message is about our functions, through which it traced.
        text = str(error).partition("The error occurred while tracing")[0].strip() or "no message"
        lines_of_text = " ".join(text.splitlines()[:3])
        message = f"{option}={name}: {type(error).__name__}: {lines_of_text}"
        message += next((f" {hint}" for part, hint in _HINTS.items() if part in message), "")
        raise ConfigError("\n".join([message, *lines])) from None


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
