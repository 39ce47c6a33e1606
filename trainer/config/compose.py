"""Compose command-line overrides into a checked configuration."""

import dataclasses
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from trainer.config import user_module, user_sources
from trainer.config.explain import OVERRIDE, explain
from trainer.config.redact import redact, redacted
from trainer.config.schema import Config, DataConfig, leave_out
from trainer.job.errors import ConfigError, TrainerError
from trainer.job.resources import config_dir, config_dirs
from trainer.job.stdout import show

_TEXTS = (
    *("run.name", "run.dir", "run.root", "data.root", "data.cache_dir"),
    "data.manifest",
    *("train.compilation_cache_dir", "model.module", "data.module", "init.run"),
)
# Keys that the schema does not know.
_OPTIONS = re.compile(r"(?:(?:model|data|optim)\.options|data\.(?:sets|weights))\.")
USER_OPTIONS = {"model": "Options", "data": "DataOptions"}  # section -> dataclass in a module
# Values that Hydra's grammar has to read: empty, null, quoted, an interpolation, a list.
_GRAMMAR = re.compile(r"null|['\"\[].*|.*\$\{.*|", re.DOTALL)


class _ConfigDir(SearchPathPlugin):  # type: ignore[misc]
    """Lets Hydra find the files of --config-dir, before those of the same name in conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in config_dirs()[:-1]:
            search_path.prepend("trainer", f"file://{folder}", anchor="main")


Plugins.instance().register(_ConfigDir)


class Job(NamedTuple):
    """One composed configuration."""

    config: Config
    experiment: str  # the file in conf/experiment/, or "default"
    record: dict[str, str]  # file name -> text, what .hydra/ in the run directory keeps


def compose(arguments: Sequence[str]) -> list[Job]:
    """Compose one job from the arguments; none where Hydra has answered a flag, like --help.

    Raises:
        ConfigError: an option is misspelt, missing, of the wrong type or out of range.
    """
    flags = [argument for argument in arguments if argument.startswith("-")]
    # With a flag, too: what --cfg prints can be trained.
    jobs = compose_each([[a for a in arguments if not flags or OVERRIDE.match(a)]])
    if not flags:
        return jobs
    answer = io.StringIO()  # show() prints it: standard output may be full or a closed pipe
    with readable_errors(arguments), redirect_stdout(answer):
        _ask_hydra(literal(arguments))
    show(answer.getvalue().removesuffix("\n"))
    return []


def compose_each(lists: Sequence[Sequence[str]]) -> list[Job]:
    """Compose one job for each list of overrides without flags; `hydra.main` takes longer.

    Raises:
        ConfigError: as `compose`.
    """
    directory = str(config_dir())
    jobs = []
    words = lists[0] if len(lists) == 1 else ()
    with readable_errors(words), initialize_config_dir(directory, version_base="1.3"):
        for overrides in lists:
            cfg = hydra.compose("config", literal(overrides), return_hydra_config=True)
            if cfg.hydra.mode == RunMode.MULTIRUN:
                raise ConfigError("hydra.mode=MULTIRUN in a file: start a sweep with -m")
            HydraConfig.instance().set_config(cfg)  # for ${hydra:...}
            jobs.append(job_of(cfg, cfg.hydra))
    return jobs


def _ask_hydra(arguments: Sequence[str]) -> None:
    """Let Hydra print what flags like --help and --cfg ask for."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    directory = str(config_dir())
    main = hydra.main(config_path=directory, config_name="config", version_base="1.3")
    program, sys.argv = sys.argv, ["trainer", *arguments]
    try:
        main(lambda _: None)()
    except SystemExit as stop:  # code 0: Hydra has answered; else it has printed the error
        if stop.code:
            raise ConfigError("see `python -m trainer --help`") from None
    finally:
        sys.argv = program


@contextmanager
def readable_errors(words: Sequence[str] = ()) -> Iterator[None]:
    """Turn the errors of Hydra and OmegaConf into a ConfigError in plain words.

    `words` are the arguments; they are shown where one cannot be read: a shell may have split it.
    """
    try:
        yield
    except TrainerError:
        raise
    except Exception as error:  # Hydra also lets errors of other libraries through
        raise ConfigError(explain(error, words, partial(_users_option, words))) from None


def _users_option(words: Sequence[str], name: str) -> str:
    """Return model.options.NAME for model.NAME, if the user's module has that option, else ""."""
    section, _, option = name.partition(".")
    given = re.compile(rf"\+*{re.escape(name)}[=.]")
    others = [word for word in words if OVERRIDE.match(word) and not given.match(word)]
    if section in USER_OPTIONS and len(others) < len(words):
        # Whatever else is wrong, the message that this is for says what is wrong first.
        with suppress(Exception), initialize_config_dir(str(config_dir()), version_base="1.3"):
            file = hydra.compose("config", literal(others))[section].module
            own = getattr(user_module.load(f"{section}.module", file), USER_OPTIONS[section])
            if option.partition(".")[0] in (field.name for field in dataclasses.fields(own)):
                return f"{section}.options.{option}"
    return ""


def job_of(cfg: DictConfig, hydra_config: DictConfig) -> Job:
    """Return the typed and checked job of a composed configuration, within `readable_errors`."""
    # Hydra lets `+key=value` add any key; merging into a fresh schema refuses unknown ones.
    given = OmegaConf.to_container(cfg)
    assert isinstance(given, dict)
    given.pop("hydra", None)
    leave_out(given, hydra_config.overrides.task)
    typed = OmegaConf.merge(OmegaConf.structured(Config), given)
    config = OmegaConf.to_object(typed)
    assert isinstance(config, Config)
    if sets := config.data.sets:
        sets |= {name: _set_of(name, options, config.data) for name, options in sets.items()}
        OmegaConf.update(typed, "data.sets", sets)
    record = dict[str, str]()
    for section, kind in USER_OPTIONS.items():  # the user's own module and its options
        part = getattr(config, section)
        if part.module is not None:
            module = user_module.load(f"{section}.module", part.module)
            part.options = user_module.options(f"{section}.options", module, kind, part.options)
            if part.options:
                OmegaConf.update(typed, f"{section}.options", dataclasses.asdict(part.options))
            sources = user_sources.sources(module)
            # Two files of one name, in two folders?
            clash = any(record.get(name, text) != text for name, text in sources.items())
            record |= {f"{section}/{name}" if clash else name: sources[name] for name in sources}
    record["config.yaml"] = OmegaConf.to_yaml(redacted(OmegaConf.to_container(typed)))
    overrides = [redact(override) for override in hydra_config.overrides.task]
    record["overrides.yaml"] = OmegaConf.to_yaml(overrides)
    return Job(config, _experiment(hydra_config), record)


def _set_of(name: str, given: Any, mixture: DataConfig) -> dict[str, Any]:
    """Return all options of a set of data=mixture, as data=KIND would have them."""
    shared = {"validation_fraction": mixture.validation_fraction}
    try:
        with readable_errors():
            of_kind = hydra.compose("config", [f"data={given['name']}"]).data
            typed = OmegaConf.merge(OmegaConf.structured(DataConfig), of_kind, shared, given)
            options = OmegaConf.to_object(typed)
    except ConfigError as error:
        raise ConfigError(f"data.sets.{name}: {error}") from None
    assert isinstance(options, DataConfig)
    if options.root is not None:  # the run may be tested in another folder
        options.root = str(Path(options.root).expanduser().absolute())
    return dataclasses.asdict(options)


def _experiment(hydra_config: DictConfig) -> str:
    """Return the name of the experiment, or the names of several, joined by a plus."""
    if one := hydra_config.runtime.choices.get("experiment"):
        return str(one)
    lists = (re.fullmatch(r"\++experiment=\[(.+)\]", t) for t in hydra_config.overrides.task)
    names = (name.strip() for several in lists if several for name in several[1].split(","))
    return "+".join(names) or "default"


def quoted(text: object) -> str:
    """Return the text quoted, so that Hydra's grammar reads it back unchanged."""
    escaped = re.sub(
        r"(\\*)('|$)", lambda match: 2 * match[1] + match[2].replace("'", "\\'"), str(text)
    )
    return f"'{escaped}'"


def literal(arguments: Sequence[str], *, sweep: bool = False) -> list[str]:
    """Return the arguments as Hydra must read them; of a `sweep`, commas separate values.

    Names and folders are quoted: Hydra would read run.name=12e4567 as an infinite number.
    """
    texts = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        plain = re.sub(r"data\.sets\.[^.]+\.", "data.", name.lstrip("+"))
        if plain in _TEXTS and not (_GRAMMAR.fullmatch(value) or (sweep and "," in value)):
            argument = f"{name}={quoted(value)}"
        # ++ sets a key whether it is there or not; the options of a user's module are not.
        texts.append(f"++{argument}" if _OPTIONS.match(argument) else argument)
    return texts
