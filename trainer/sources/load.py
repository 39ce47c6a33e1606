"""The data set that the options data.* name: MNIST or files like its, or the user's own."""

from collections.abc import Callable
from typing import Any

import numpy as np

from trainer.config import user_module
from trainer.config.schema import DataConfig, data_config
from trainer.data import digests
from trainer.data.dataset import Dataset, Examples
from trainer.data.mapped import Mapped, mapping_of
from trainer.data.rows import LARGE, Array, Converted, View, parts
from trainer.data.split import with_validation
from trainer.formats import manifest
from trainer.formats.download import Progress
from trainer.job.errors import ConfigError
from trainer.sources import arrays, huggingface, images, mixture, mnist, records, table, text

_CANONICAL = {"int64": "int32", "uint64": "uint32", "float64": "float32"}  # as jax has them


def load(
    data: DataConfig,
    *,
    progress: Progress,
    poll: Callable[[], None],
    warn: Callable[[str], None],
) -> Dataset:
    """Return the data set, checked, with its validation split. Arguments as of mnist.load.

    Raises:
        ConfigError: the user's module is wrong, which names its line or the array; there are too
            few examples for data.validation_fraction.
        DataError: as mnist.load.
    """
    whole = _load(data, progress=progress, poll=poll, warn=warn)
    return with_validation(whole, data.validation_fraction)


def _load(data: DataConfig, **report: Callable[..., None]) -> Dataset:
    if data.manifest is not None:
        progress, poll = report["progress"], report["poll"]
        manifest.check(data.manifest, str(data.root), data.cache_dir, progress=progress, poll=poll)
    made = KINDS[data.name](data, **report)
    is_module = data.name == "module"
    where = f"data.module={data.module}: load()" if is_module else f"data.root={data.root}"
    dataset = checked(made, where, data.cache_dir, report["poll"])
    return dataset._replace(class_names=tuple(data.class_names or dataset.class_names))


def _arrays(data: DataConfig, **_: Any) -> Dataset:
    return arrays.load(str(data.root))


def _images(data: DataConfig, **report: Any) -> Dataset:
    return images.load(str(data.root), data.cache_dir, _form(data), _fraction(data), **report)


def _huggingface(data: DataConfig, **report: Any) -> Dataset:
    root, form = str(data.root), _form(data)
    columns, fraction = data.columns, _fraction(data)
    return huggingface.load(root, data.cache_dir, form, fraction, columns, **report)


def _form(data: DataConfig) -> images.Form:
    return images.Form(data.image_size, data.channels or 3)


def _fraction(data: DataConfig) -> float:
    return data.test_fraction or 0.0


def _module(data: DataConfig, **_: Any) -> Dataset:
    option, name = "data.module", data.module
    assert name is not None
    module = user_module.load(option, name)
    make = getattr(module, "load", None)
    if not callable(make):
        raise ConfigError(f"{option}={name}: there is no function load(options) in it")
    with user_module.readable(option, name):
        made: Dataset = make(data.options)
        return made


def _table(data: DataConfig, **_: Any) -> Dataset:
    return table.load(
        str(data.root),
        str(data.label),
        data.features,
        data.categories or (),
        _fraction(data),
        regression=bool(data.regression),
    )


def _text(data: DataConfig, **_: Any) -> Dataset:
    assert data.window is not None
    fractions = (_fraction(data), data.validation_fraction)
    return text.load(str(data.root), data.window, data.stride, *fractions, data.cache_dir)


def _records(data: DataConfig, **report: Any) -> Dataset:
    return records.load(str(data.root), data.cache_dir, _fraction(data), **report)


def _mixture(data: DataConfig, **report: Callable[..., None]) -> Dataset:
    sets = {
        name: load(one if isinstance(one, DataConfig) else data_config(one), **report)
        for name, one in (data.sets or {}).items()
    }
    return mixture.mixed(sets, data.weights or {})


# data.name -> function(data, progress=, poll=, warn=); what it returns is checked. Which options
# data.* a kind has, DataConfig says.
KINDS: dict[str, Callable[..., Dataset]] = {
    "mnist": mnist.load,
    "mnist_5k": mnist.load,
    "idx": mnist.load,
    "arrays": _arrays,
    "images": _images,
    "huggingface": _huggingface,
    "table": _table,
    "text": _text,
    "records": _records,
    "mixture": _mixture,
    "module": _module,
}


def checked(
    made: Any, where: str, cache: str | None = None, poll: Callable[[], None] = lambda: None
) -> Dataset:
    """Return a data set as the trainer needs it: arrays of 32 bits at most, with its SHA-256.

    That of large files is kept in the folder `cache`; `poll` is called while it is computed.

    Raises:
        ConfigError: it is no Dataset, or its arrays do not fit together; begins with `where`.
    """
    if not isinstance(made, Dataset):
        hint = "return trainer.Dataset(name, train, test), each a dict of numpy arrays"
        raise ConfigError(f"{where} returned {type(made).__name__}", hint)
    splits = {name: _split(examples, name, where) for name, examples in made.splits.items()}
    train = splits["train"]
    for split, examples in splits.items():
        if train.keys() != examples.keys():
            message = f"train has the fields {', '.join(train)}, {split} {', '.join(examples)}"
            raise ConfigError(f"{where}: {message}", "give all the same")
        for name, array in train.items():
            one, other = ((a.dtype, a.shape[1:]) for a in (array, examples[name]))
            if one != other:
                message = (
                    f"{where}: {name} is {_shown(one)} in train, but {_shown(other)} in {split}"
                )
                raise ConfigError(message, "give all the same dtype and shape")
    names = tuple(map(str, made.class_names))
    given: dict[str, Any] = {**made._asdict(), **splits, "name": str(made.name)}
    whole = Dataset(**{**given, "class_names": names})
    return whole._replace(sha256=whole.sha256 or digests.sha256(whole, cache, poll))


def _split(given: Any, split: str, where: str) -> Examples:
    if not isinstance(given, dict) or not given:
        hint = 'give a dict of arrays, like {"image": images, "label": labels}'
        raise ConfigError(f"{where}: {split} is {type(given).__name__}", hint)
    arrays: Examples = {}
    for name, value in given.items():
        try:
            array = _array(value)
        except ValueError:  # lists of several lengths
            message = f"{where}: {split}[{name!r}] has examples of different shapes"
            raise ConfigError(message, "pad them to one") from None
        is_number = array.dtype.kind in "biuf" and array.dtype.itemsize <= 8
        if not is_number and array.dtype.name != "bfloat16":
            message = f"{where}: {split}[{name!r}] has dtype {array.dtype}"
            raise ConfigError(message, "use numbers; texts become tokens or bytes")
        if array.ndim == 0:
            raise ConfigError(f"{where}: {split}[{name!r}] is a single number: give (N, ...)")
        native = array.dtype.newbyteorder("=")
        if (canonical := np.dtype(_CANONICAL.get(native.name, native))) != array.dtype:
            if native.name in ("int64", "uint64") and not _fit(array, np.iinfo(canonical)):
                message = f"{where}: {split}[{name!r}] has numbers that 32 bits cannot hold"
                raise ConfigError(message, "jax computes with 32 bits: make them smaller")
            converted = Converted(array, canonical)
            is_large = isinstance(array, View) and converted.nbytes > LARGE
            array = converted if is_large else converted[:]
        arrays[str(name)] = array
    counts = {name: len(array) for name, array in arrays.items()}
    if len({*counts.values()}) > 1 or not all(counts.values()):
        text = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise ConfigError(
            f"{where}: {split} has {text} examples", "give all fields the same number, at least 1"
        )
    return arrays


def _array(value: Any) -> Array:
    """Return a user's array: as it is where its rows are read when they are asked for."""
    if isinstance(value, View):
        return value
    if isinstance(value, np.memmap) and value.mode != "c" and mapping_of(value) is not None:
        return Mapped(value)
    return np.asarray(value)


def _fit(array: Array, limits: np.iinfo[Any]) -> bool:
    return all(limits.min <= part.min() <= part.max() <= limits.max for part in parts(array))


def _shown(one: tuple[np.dtype[Any], tuple[int, ...]]) -> str:
    return f"{one[0]} {list(one[1])}"
