"""What to say about a wrong command line: what is known of it, never a guess at its cause."""

import dataclasses
import difflib
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import get_type_hints

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from trainer.config import schema
from trainer.config.schema import Config
from trainer.job.errors import ConfigError
from trainer.job.resources import config_dirs

FLAGS = (  # which Hydra answers; nothing is trained
    *("-h", "--help", "--hydra-help", "-c", "--cfg", "--resolve", "-p", "--package"),
    *("-i", "--info"),
)
OVERRIDE = re.compile(r"~|[^-=][^=]*=")  # what one begins with
_SEE = "`python -m trainer --help` lists them"
_DEVICES = "parallel.devices=N uses N devices; the variable JAX_PLATFORMS=cpu keeps off the GPUs"
_RESUME = "a run resumes when you give its command again, with the same run.name or run.dir"
_OTHER_COMMANDS = {  # what people type -> what there is
    "fit": "did you mean train?",
    "test": "did you mean evaluate?",
    **{word: f"did you mean --{word}?" for word in ("help", "version")},
    **dict.fromkeys(("resume", "continue", "restart"), _RESUME),
}
_OTHER_NAMES = {  # what people type -> what there is
    "resume": _RESUME,
    "learning_rate": "did you mean optim.lr?",
    **dict.fromkeys(("batchsize", "bs"), "did you mean train.global_batch_size?"),
    "weight_decay": "did you mean optim.options.weight_decay, with optim=adamw?",
    **dict.fromkeys(("device", "gpu", "gpus"), _DEVICES),
}
_RULES = {  # part of OmegaConf's message about a value of the wrong type -> the rule
    "to Integer": "use a whole number",
    "to Float": "use a number",
    "to Boolean": "use true or false",
    "not a valid bool": "use true or false",
    "not a ListConfig": "use a list, like [A,B]",
    "not Optional": "it needs a value",
    "'None' for field": "it needs a value",
    "Unexpected type": "use int, float, bool, str, an Enum, a dataclass, or lists of these",
}


def rule_of(message: str) -> str | None:
    """Return the rule that a value breaks, given the message of OmegaConf's error."""
    return next((rule for part, rule in _RULES.items() if part in message), None)


def refuse_words(words: Sequence[str], *, see: str = _SEE, commands: Collection[str] = ()) -> None:
    """Raise ConfigError for a word that is a flag, or nearly the name of a command."""
    for place, word in enumerate(words):
        if commands and word in _OTHER_COMMANDS:
            raise ConfigError(f"{word} is not a command", _OTHER_COMMANDS[word])
        names = () if "=" in word else commands
        near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
        if near or word.startswith("-"):
            name, equals, value = word.lstrip("-").partition("=")
            value = value if equals else next(iter(words[place + 1 :]), "")
            value = "VALUE" if value == "" or OVERRIDE.match(value) else value
            hint = f"did you mean {near[0]}?" if near else _suggestion(name, f"={value}") or see
            raise ConfigError(f"{word} is not {'a command' if near else 'an option'}", hint)


def explain(
    error: Exception, words: Sequence[str], users_option: Callable[[str], str] = lambda _: ""
) -> str:
    """Return a message with what is known: the file, the option, its value, the rule.

    `words` are the arguments; they are shown where one cannot be read: a shell may have split it.
    `users_option` returns the option of the user's module that a wrong name means, or nothing.
    """
    known = (HydraException, OmegaConfBaseException)
    causes = [e for e in _causes(error) if isinstance(e, known)] or [error]
    texts = [re.split(r"\n\s*full_key|\nConfig search path", str(e))[0].strip() for e in causes]
    text = "\n".join(dict.fromkeys(t for t in texts if t and t != "None" and "$VALUE" not in t))
    key = next((str(k) for e in causes if (k := getattr(e, "full_key", None))), "")
    if unread := next((e for e in causes if isinstance(e, OverrideParseException)), None):
        lines = (line for line in text.splitlines() if not line.startswith(("Error ", "See ")))
        return _unreadable(unread.override, next(lines, ""), words)
    if several := re.match(r"Ambiguous value for argument '([^=]*)=(.*)'\n", text):
        option, values = several.groups()
        return (
            f"{option}={values} has several values: with -m each is trained, "
            f"{option}=[{values}] is a list, {option}=\"'{values}'\" is one text"
        )
    if group := re.search(r"To append to your default list use (\+([^=]+)=\S*)", text):
        return f"{group[2]} is added with a plus: {group[1]}"
    if group := re.search(r"To override a value use 'override ([^:]+): |^(\S+) appears more", text):
        name = group[1] or group[2]
        return f"{name} has a value already: {name}=NAME replaces it; in a file, override /{name}"
    file, inside = "", re.search(r"In '([^']+)': ", text)
    if inside and inside[1] != "config":
        paths = [folder / f"{inside[1]}.yaml" for folder in config_dirs()]
        file = next((f"{path}: " for path in paths if path.is_file()), f"{inside[1]}: ")
        text = re.sub(r".*raised while composing config:\n", "", text.replace(inside[0], ""))
    if choice := re.search(r"Could not (?:find|load) '([^']+)/([^']*)'", text):
        return file + _unknown_choice(choice[1], choice[2])
    override = re.search(r"Could not override '([^']+)'", text)
    if override or re.search(r"Key '[^']+' (?:is )?not in", text):
        name = override[1] if override else key
        if inside and name == inside[1].rpartition("/")[0]:
            line = "begin the file with the line `# @package _global_`"
            return f"{file}its options would stand below `{name}`: {line}"
        if "@" in name:
            return f"{file}there is no group {name} to override: begin its name with a slash"
        own = f"did you mean {option}?" if (option := users_option(name)) else ""
        return f"{file}{name} is not an option: {own or _suggestion(name) or _SEE}"
    if section := re.search(r"is not a subclass of (\w+Config)", text):
        kind = getattr(schema, section[1])
        path = kind.section or section[1].removesuffix("Config").lower()
        names = ", ".join(f"{path}.{option.name}" for option in dataclasses.fields(kind))
        return f"{file}{path} is a section: use {names}"
    if rule := rule_of(text):
        message = str(error).partition("\n")[0].removeprefix("Error merging override ")
        value = re.match(r"Value '(.*)' of type", text)
        place = f"{key}={value[1]}" if value else key
        return f"{file}{message if '=' in message else place}: {rule}"
    where = file.removesuffix(": ") or key or getattr(error, "override", None) or ""
    return text if where in text else f"{where}: {text}"


def _unreadable(override: str, why: str, words: Sequence[str]) -> str:
    """Return the message for a word that Hydra's grammar does not allow."""
    message = f"{override} cannot be read: {why}"
    if "=" not in override:
        message = f"{override} is neither a command nor OPTION=VALUE: {_SEE}"
    if len(words) > 1 and any("=" not in word for word in words):
        parts = " ".join(map(shlex.quote, words))
        message += f"\n  the words of the command: {parts}"
        message += "\n  where an option has a space, write it in quotes: 'OPTION=VALUE'"
    return message


def _suggestion(name: str, value: str = "") -> str:
    """Return the options, if any, that a name may mean, as a question; `value` is put behind."""
    last = name.rpartition(".")[2].replace("-", "_")
    if last in _OTHER_NAMES:
        return _OTHER_NAMES[last]
    sections = get_type_hints(Config)
    parts = {
        f"{section}.{option.name}": option.name
        for section, kind in sections.items()
        for option in dataclasses.fields(kind)
    }
    words = {*last.split("_")}
    near = [option for option, part in parts.items() if part == last]
    near = near or [option for option, part in parts.items() if words <= {*part.split("_")}]
    like = parts if "." in name else sections
    near = near or difflib.get_close_matches(name, like, n=1, cutoff=0.6)
    if not near and (part := difflib.get_close_matches(last, parts.values(), n=1, cutoff=0.75)):
        near = [option for option in parts if parts[option] == part[0]]
    return f"did you mean {' or '.join(option + value for option in near[:3])}?" if near else ""


def _unknown_choice(group: str, name: str) -> str:
    folders = [str(folder / group) for folder in config_dirs() if (folder / group).is_dir()]
    names = sorted({path.stem for folder in folders for path in Path(folder).glob("*.yaml")})
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(names)}"
    for folder in (Path("conf"), Path(), *(folder / "conf" for folder in config_dirs()[:-1])):
        if (folder / group / f"{name}.yaml").is_file():
            hint = f"add --config-dir {folder}"
    own = config_dirs()[0]
    missing = "" if (own / group).is_dir() else f" ({own} has no folder {group})"
    where = " or ".join(folders)
    return f"{group}={name}: there is no such file in {where}{missing}: {hint}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
