"""MODEL_CARD.md: what an exported model is, where it comes from, its use and its limits."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import jax

from trainer.checkpoint.load_model import Trained
from trainer.data.dataset import Columns
from trainer.job.files import read_or_empty
from trainer.job.stdout import listed
from trainer.parallel.evaluation import Evaluation
from trainer.tracking import environment, summary
from trainer.tracking.terminal import metric_text

PACKAGES = ("python", "trainer", "jax", "jaxlib", "numpy", "safetensors", "onnx")
CLASSIFIER = "$classifier "  # before a line of the template that is for classifiers alone


def text(
    trained: Trained,
    data_name: str | None,
    tested: Evaluation | None,
    index: Mapping[str, Any],
    digests: Mapping[str, str],
    checks: Sequence[str],
) -> str:
    """Return the card.

    `data_name` names the test examples, if there were any, and `tested` has the results on them.
    `index` describes the export, as in model.json; `digests` are file name -> SHA-256; `checks` are
    the comparisons with the live model, a sentence each.
    """
    record, data = trained.record, trained.dataset
    names = ("loss", *trained.task.metric_names)
    metrics = []
    if tested is not None:
        source = f"{data_name}, {tested.examples:,} test examples, at the export"
        metrics.append((source, *(metric_text(n, tested.means[n]) for n in names)))
    for split in ("validation", "test"):
        by_run = {name: record.get(f"{split}_{name}") for name in names}
        if any(value is not None for value in by_run.values()):
            source = f"{data['name']}, {data[f'{split}_examples']:,} {split} examples, by the run"
            values = by_run.items()
            texts = ("" if x is None else metric_text(n, float(x)) for n, x in values)
            metrics.append((source, *texts))
    arrays = [
        (f"{kind} `{name}`", spec["dtype"], " x ".join(map(str, ["N", *spec["shape"][1:]])))
        for kind in ("input", "output")
        for name, spec in index[f"{kind}s"].items()
    ]
    leaves, classes = jax.tree.leaves(trained.weights), trained.classes
    versions = [
        (package, record["versions"].get(package) or "", version or "")
        for package, version in environment.versions(PACKAGES).items()
    ]
    started = read_or_empty(trained.run / "environment.json", environment.SHAPE)
    # Without a checkout, or in a copy without the file, it is unknown.
    revision = (started.get("git") or {}).get("revision", "unknown")
    lines = Path(__file__).with_name("card.md").read_text().splitlines(keepends=True)
    kept = [line for line in lines if classes or not line.startswith(CLASSIFIER)]
    return Template("".join(line.removeprefix(CLASSIFIER) for line in kept)).substitute(
        name=index["run"],
        step=f"{trained.step:,}",
        kind=_kind(trained),
        parameters=f"{sum(leaf.size for leaf in leaves):,}",
        dtypes=", ".join(sorted({str(leaf.dtype) for leaf in leaves})),
        classes=classes,
        names=_names(trained),
        arrays=_table(("array", "dtype", "shape"), arrays),
        files=_table(("file", "SHA-256"), [(f"`{f}`", f"`{sha}`") for f, sha in digests.items()]),
        weights_sha256=index["weights_sha256"],
        digest_name="ema_sha256" if trained.is_average else "weights_sha256",
        average=". The weights are the average over the steps (`ema.decay`)." * trained.is_average,
        checks="\n".join(f"- {check}" for check in checks),
        data=data["name"],
        examples=summary.counts(data),
        data_sha256=data["sha256"],
        pixels=_pixels(index.get("pixels")),
        columns=_columns(trained.columns),
        jax=index["jax"].removeprefix(">="),
        metrics=_table(("data", *names), metrics) if metrics else "None were measured.",
        configuration=json.dumps(record["meaning"], indent=2),
        revision=revision,
        versions=_table(("package", "trained with", "exported with"), versions),
    )


def _names(trained: Trained) -> str:
    """Return the numbers of the classes, with their names if they have any."""
    if "class_names" not in trained.record:
        return f"0 to {(trained.classes or 0) - 1}"
    return ", ".join(f"{index} {name}" for index, name in enumerate(trained.class_names))


def _pixels(scaling: Mapping[str, float] | None) -> str:
    """Return how the built-in model scales pixels, which no weight tells."""
    if scaling is None:
        return ""
    mean, std = (f"{scaling[name]:.8g}" for name in ("pixel_mean", "pixel_std"))
    return (
        f"\nThe program takes pixels from 0 to 255. It subtracts {mean} from each and divides by "
        f"{std} (their mean and standard deviation in training, or 0 and 1)."
    )


def _columns(columns: Columns | None) -> str:
    """Return which columns of a table are features, and the codes of its categories."""
    if columns is None:
        return ""
    lines = []
    if columns.features:
        lines.append(f"`features` are the columns {', '.join(columns.features)}, in this order.")
    for name, values in columns.categories.items():
        codes = [f"{code} {value}" for code, value in enumerate(values)]
        lines.append(f"`{name}` has the codes {listed(codes)}, as in `model.json`.")
    return "\n" + "\n".join(lines)


def _kind(trained: Trained) -> str:
    record = trained.record
    if "objective" in record:
        kernels = [layer.kernel.shape for layer in trained.weights]
        layers = "-".join(map(str, [kernels[0][0], *(shape[1] for shape in kernels)]))
        return f"A multilayer perceptron, {layers}"
    name = Path(record["config"]["model"]["module"]).name
    return f"The model of `{name}`, SHA-256 `{record['module_sha256']}`"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])
