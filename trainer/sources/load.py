"""The data set that the options data.* name: MNIST or files like its, or the user's own."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from trainer.config import user_module
from trainer.config.schema import DataConfig, data_config
from trainer.data import digests
from trainer.data.dataset import SPLITS, Dataset, Examples, Splits, fields, size
from trainer.data.order import MOST_PARTS, Mixture, whole
from trainer.data.report import Report
from trainer.data.rows import LARGE, Array, Concatenated, Converted, Mapped, View, parts
from trainer.data.split import with_validation
from trainer.formats import manifest
from trainer.job.errors import ConfigError
from trainer.sources import arrays, huggingface, images, mnist, records, table, text

_CANONICAL = {"int64": "int32", "uint64": "uint32", "float64": "float32"}  # as jax has them


def load(data: DataConfig, report: Report) -> Dataset:
    """Return the data set, checked, with its validation split.

    Raises:
        ConfigError: the user's module is wrong, which names its line or the array; there are too
            few examples for data.validation_fraction; or as the function of KINDS.
        DataError: as the function of KINDS.
        Exception: whatever report.poll() raised.
    """
    if data.manifest is not None:
        manifest.check(data.manifest, str(data.root), data.cache_dir, report)
    made = KINDS[data.name](data, report)
    is_module = data.name == "module"
    where = f"data.module={data.module}: load()" if is_module else f"data.root={data.root}"
    dataset = checked(made, where, data.cache_dir, report.poll)
    dataset = dataset._replace(class_names=tuple(data.class_names or dataset.class_names))
    return with_validation(dataset, data.validation_fraction)


def _module(data: DataConfig, _: Report) -> Dataset:
    option, name = "data.module", str(data.module)
    make = getattr(user_module.load(option, name), "load", None)
    if not callable(make):
        raise ConfigError(f"{option}={name}: there is no function load(options) in it")
    with user_module.readable(option, name):
        made: Dataset = make(data.options)
        return made


def _mixture(data: DataConfig, report: Report) -> Dataset:
    """Return the training examples of all sets as a mixture; the other splits are put together.

    Raises:
        ConfigError: the sets do not fit together, or the weights have no simple ratio.
    """
    sets = {name: load(data_config(one), report) for name, one in (data.sets or {}).items()}
    first, one = next(iter(sets.items()))
    for name, other in sets.items():
        for what, mine, theirs in (
            ("fields", fields(one.train), fields(other.train)),
            ("class names", ", ".join(one.class_names), ", ".join(other.class_names)),
        ):
            if mine != theirs:
                message = f"data.sets: {first} has the {what} {mine or 'none'}, {name} "
                raise ConfigError(f"{message}{theirs or 'none'}", "give all sets the same")
    weights = [float((data.weights or {}).get(name, 1)) for name in sets]
    try:
        shares = whole(weights)
    except ValueError as error:
        message = f"data.weights={dict(zip(sets, weights, strict=True))}: {error}"
        hint = f"use rounder ones: as whole numbers they add up to at most {MOST_PARTS:,}"
        raise ConfigError(message, hint) from None
    sizes = tuple(size(of.train) for of in sets.values())
    known = [f"{name}\0{of.sha256}\0{size(of.train)}\0" for name, of in sets.items()]
    splits: Splits = {}
    for split in SPLITS:
        if parts := [of.splits[split] for of in sets.values() if split in of.splits]:
            splits[split] = {f: Concatenated([part[f] for part in parts]) for f in one.train}
    return Dataset(
        "mixture",
        **splits,
        sha256=hashlib.sha256("".join(known).encode()).hexdigest(),
        class_names=one.class_names,
        mixture=Mixture(sizes, shares),
        columns=one.columns if all(of.columns == one.columns for of in sets.values()) else None,
    )


# data.name -> what loads it; load() checks the result. Which options data.* a kind has, DataConfig
# says.
KINDS: dict[str, Callable[[DataConfig, Report], Dataset]] = {
    "mnist": mnist.load,
    "mnist_5k": mnist.load,
    "idx": mnist.load,
    "arrays": arrays.load,
    "images": images.load,
    "huggingface": huggingface.load,
    "table": table.load,
    "text": text.load,
    "records": records.load,
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
    splits: Splits = {
        name: _split(examples, f"{where}: {name}") for name, examples in made.splits.items()
    }
    first = fields(splits["train"])
    for split, examples in splits.items():
        if (other := fields(examples)) != first:
            message = f"{where}: train has the fields {first}, {split} {other}"
            raise ConfigError(message, "give all the same fields, dtypes and shapes")
    names = tuple(map(str, made.class_names))
    dataset = made._replace(**splits, name=str(made.name), class_names=names)
    return dataset._replace(sha256=dataset.sha256 or digests.sha256(dataset, cache, poll))


def _split(given: Any, where: str) -> Examples:
    if not isinstance(given, dict) or not given:
        hint = 'give a dict of arrays, like {"image": images, "label": labels}'
        raise ConfigError(f"{where} is {type(given).__name__}", hint)
    arrays = {str(name): _array(value, f"{where}[{name!r}]") for name, value in given.items()}
    counts = {name: len(array) for name, array in arrays.items()}
    if len({*counts.values()}) > 1 or not all(counts.values()):
        text = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        hint = "give all fields the same number, at least 1"
        raise ConfigError(f"{where} has {text} examples", hint)
    return arrays


def _array(value: Any, where: str) -> Array:
    """Return a user's array with a dtype of jax; one in a file or computed by rows stays a View."""
    array: Array = value
    if isinstance(value, np.memmap) and value.mode != "c" and getattr(value, "_mmap", None):
        array = Mapped(value)
    elif not isinstance(value, View):
        try:
            array = np.asarray(value)
        except ValueError:  # lists of several lengths
            message = f"{where} has examples of different shapes"
            raise ConfigError(message, "pad them to one") from None
    is_number = array.dtype.kind in "biuf" and array.dtype.itemsize <= 8
    if not is_number and array.dtype.name != "bfloat16":
        message = f"{where} has dtype {array.dtype}"
        raise ConfigError(message, "use numbers; texts become tokens or bytes")
    if array.ndim == 0:
        raise ConfigError(f"{where} is a single number: give (N, ...)")
    native = array.dtype.newbyteorder("=")
    if (canonical := np.dtype(_CANONICAL.get(native.name, native))) == array.dtype:
        return array
    if native.name in ("int64", "uint64"):
        limits = np.iinfo(canonical)
        if not all(limits.min <= p.min() <= p.max() <= limits.max for p in parts(array)):
            message = f"{where} has numbers that 32 bits cannot hold"
            raise ConfigError(message, "jax computes with 32 bits: make them smaller")
    converted = Converted(array, canonical)
    return converted if isinstance(array, View) and converted.nbytes > LARGE else converted[:]
