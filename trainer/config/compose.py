"""Compose command-line overrides into a checked configuration; make Hydra's errors readable."""

import dataclasses
import difflib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import NamedTuple, get_type_hints

import hydra
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainer.config import user_module
from trainer.config.schema import Config, config_dir, config_dirs
from trainer.config.types import rule_of
from trainer.job.errors import ConfigError, TrainerError
from trainer.job.stdout import show

_TEXTS = (
    *("run.name", "run.dir", "run.root", "data.root", "data.cache_dir"),
    *("train.compilation_cache_dir", "model.module", "data.module", "init.run"),
)
_OPTIONS = re.compile(r"(?:model|data|optim)\.options\.")  # keys that the schema does not know
USER_OPTIONS = {"model": "Options", "data": "DataOptions"}  # section -> dataclass in a module
# Values that Hydra's grammar has to read: empty, null, quoted, an interpolation, a list, a sweep.
_GRAMMAR = re.compile(r"null|['\"\[].*|.*\$\{.*|.*,.*|", re.DOTALL)


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
    record: dict[str, str]  # file name -> YAML, what .hydra/ in the run directory keeps


def compose(arguments: Sequence[str]) -> list[Job]:
    """Compose one job from the arguments; none where Hydra has answered a flag, like --help.

    Raises:
        ConfigError: an option is misspelt, missing, of the wrong type or out of range.
    """
    if not any(argument.startswith("-") for argument in arguments):
        return compose_each([arguments])
    jobs: list[Job] = []
    answer = io.StringIO()  # show() prints it: standard output may be full or a closed pipe
    with readable_errors():
        with redirect_stdout(answer):
            run_hydra(literal(arguments), lambda cfg: jobs.append(job_of(cfg, HydraConfig.get())))
        if answer.getvalue():
            show(answer.getvalue().removesuffix("\n"))
    return jobs


def compose_each(lists: Sequence[Sequence[str]]) -> list[Job]:
    """Compose one job for each list of overrides without flags, in 60 % of the time of `run_hydra`.

    Raises:
        ConfigError: as `compose`.
    """
    directory = str(config_dir())
    jobs = []
    with readable_errors(), initialize_config_dir(directory, version_base="1.3"):
        for overrides in lists:
            cfg = hydra.compose("config", literal(overrides), return_hydra_config=True)
            if cfg.hydra.mode == RunMode.MULTIRUN:
                raise ConfigError("hydra.mode=MULTIRUN in a file: start a sweep with -m")
            HydraConfig.instance().set_config(cfg)  # for ${hydra:...}
            jobs.append(job_of(cfg, cfg.hydra))
    return jobs


def run_hydra(arguments: Sequence[str], task: Callable[[DictConfig], object]) -> None:
    """Let Hydra read the command line and call the task, once or as often as its sweeper decides.

    It raises anything the task or Hydra raises; wrap the call in `readable_errors`.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    directory = str(config_dir())
    main = hydra.main(config_path=directory, config_name="config", version_base="1.3")
    program, sys.argv = sys.argv, ["trainer", *arguments]
    try:
        main(task)()
    except SystemExit as stop:  # code 0: Hydra has answered; else it has printed the error
        if stop.code:
            raise ConfigError("see `python -m trainer --help`") from None
    finally:
        sys.argv = program


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn the errors of Hydra and OmegaConf into a ConfigError in plain words."""
    try:
        yield
    except TrainerError:
        raise
    except Exception as error:  # Hydra also lets errors of other libraries through
        raise ConfigError(_explain(error)) from None


def job_of(cfg: DictConfig, hydra_config: DictConfig) -> Job:
    """Return the typed and checked job of a composed configuration, within `readable_errors`."""
    # Hydra lets `+key=value` add any key; merging into a fresh schema refuses unknown ones.
    given = OmegaConf.to_container(cfg)
    assert isinstance(given, dict)
    given.pop("hydra", None)
    typed = OmegaConf.merge(OmegaConf.structured(Config), given)
    config = OmegaConf.to_object(typed)
    assert isinstance(config, Config)
    record = dict[str, str]()
    for section, kind in USER_OPTIONS.items():  # the user's own module and its options
        part = getattr(config, section)
        if part.module is not None:
            module = user_module.load(f"{section}.module", part.module)
            part.options = user_module.options(f"{section}.options", module, kind, part.options)
            if part.options:
                OmegaConf.update(typed, f"{section}.options", dataclasses.asdict(part.options))
            name, text = user_module.file_name(module), user_module.source(module)
            if record.get(name, text) != text:  # two files of one name, in two folders
                name = f"{section}-{name}"
            record[name] = text
    record["config.yaml"] = OmegaConf.to_yaml(typed)
    record["overrides.yaml"] = OmegaConf.to_yaml(hydra_config.overrides.task)
    experiment = hydra_config.runtime.choices.get("experiment")
    return Job(config, str(experiment or "default"), record)


def _explain(error: Exception) -> str:
    """Return a message that names the wrong option and, if there is one, the nearest real name."""
    known = (HydraException, OmegaConfBaseException)
    causes = [e for e in _causes(error) if isinstance(e, known)] or [error]
    texts = [re.split(r"\n\s*full_key|\nConfig search path", str(e))[0].strip() for e in causes]
    text = "\n".join(dict.fromkeys(t for t in texts if t and t != "None" and "$VALUE" not in t))
    key = next((str(k) for e in causes if (k := getattr(e, "full_key", None))), "")
    if word := re.match(r"Error parsing override '([^'=]+)'\nmissing EQUAL", text):
        hint = "`python -m trainer --help` lists both"
        return f"{word.group(1)} is neither a command nor OPTION=VALUE: {hint}"
    override = re.search(r"Could not override '([^']+)'", text)
    if override or re.search(r"Key '[^']+' (?:is )?not in", text):
        return _unknown_option(override.group(1) if override else key)
    if choice := re.search(r"Could not find '([^']+)/([^']+)'", text):
        return _unknown_choice(choice.group(1), choice.group(2))
    if rule := rule_of(text):
        message = str(error).partition("\n")[0].removeprefix("Error merging override ")
        return f"{message if '=' in message else key}: {rule}"
    where = key or getattr(error, "override", None) or ""
    return text if where in text else f"{where}: {text}"


def _unknown_option(name: str) -> str:
    if name == "experiment":
        return "experiment is added with a plus: use +experiment=NAME"
    names = [*get_type_hints(Config)]
    for section, kind in get_type_hints(Config).items():
        names += [f"{section}.{option.name}" for option in dataclasses.fields(kind)]
    hint = _nearest(name, names) or "`python -m trainer --cfg job` lists them all"
    return f"{name} is not an option: {hint}"


def _unknown_choice(group: str, name: str) -> str:
    folders = [str(folder / group) for folder in config_dirs() if (folder / group).is_dir()]
    names = sorted({path.stem for folder in folders for path in Path(folder).glob("*.yaml")})
    hint = _nearest(name, names) or f"use one of {', '.join(names)}"
    return f"{group}={name}: there is no such file in {' or '.join(folders)}: {hint}"


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def quoted(text: object) -> str:
    """Return the text quoted, so that Hydra's grammar reads it back unchanged."""
    escaped = re.sub(
        r"(\\*)('|$)", lambda match: 2 * match[1] + match[2].replace("'", "\\'"), str(text)
    )
    return f"'{escaped}'"


def literal(arguments: Sequence[str]) -> list[str]:
    """Return the arguments as Hydra must read them.

    Names and folders are quoted: Hydra would read run.name=12e4567 as an infinite number.
    """
    texts = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        is_text = name.lstrip("+") in _TEXTS and not _GRAMMAR.fullmatch(value)
        argument = f"{name}={quoted(value)}" if is_text else argument
        # ++ sets a key whether it is there or not; the options of a user's module are not.
        texts.append(f"++{argument}" if _OPTIONS.match(argument) else argument)
    return texts
