"""MODEL_CARD.md: what an exported model is, where it comes from, its use and its limits."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from trainer.checkpoint.load_model import Trained
from trainer.tasks.assess import Assessment
from trainer.tracking import environment

PACKAGES = ("python", "trainer", "jax", "jaxlib", "numpy", "safetensors", "onnx")


def text(
    trained: Trained,
    images: str | None,
    tested: Assessment | None,
    index: Mapping[str, Any],
    digests: Mapping[str, str],
    checks: Sequence[str],
) -> str:
    """Return the card.

    `images` names the test images, if there were any, and `tested` has the results on them. `index`
    describes the export, as in model.json; `digests` are file name -> SHA-256; `checks` are the
    comparisons with the live model, a sentence each.
    """
    record, data = trained.record, trained.record["meaning"]["data set"]
    sizes = [kernel.shape for kernel, _ in trained.weights]
    metrics = []
    if tested is not None:
        source = f"{images}, {tested.examples:,} test images, at the export"
        metrics.append((source, f"{tested.accuracy:.2%}", f"{tested.loss:.4f}"))
    if (accuracy := record.get("test_accuracy")) is not None:
        source = f"{data['name']}, {data['test_examples']:,} test images, by the run"
        metrics.append((source, f"{accuracy:.2%}", ""))
    versions = [
        (package, record["versions"].get(package) or "", version or "")
        for package, version in environment.versions(PACKAGES).items()
    ]
    try:
        started = json.loads((trained.run / "environment.json").read_text())
        revision = started["git"]["revision"]
    except (OSError, ValueError, KeyError, TypeError):  # no checkout, or a copy without the file
        revision = "unknown"
    return Template(Path(__file__).with_name("card.md").read_text()).substitute(
        name=index["run"],
        step=f"{trained.step:,}",
        layers="-".join(map(str, [sizes[0][0], *(size[1] for size in sizes)])),
        parameters=f"{sum(array.size for layer in trained.weights for array in layer):,}",
        classes=trained.objective.num_classes,
        last=trained.objective.num_classes - 1,
        shape=" x ".join(map(str, trained.image_shape)),
        files=_table(("file", "SHA-256"), [(f"`{f}`", f"`{sha}`") for f, sha in digests.items()]),
        weights_sha256=index["weights_sha256"],
        checks="\n".join(f"- {check}" for check in checks),
        data=data["name"],
        train_examples=f"{data['train_examples']:,}",
        test_examples=f"{data['test_examples']:,}",
        data_sha256=data["sha256"],
        metrics=_table(("data", "accuracy", "loss"), metrics) if metrics else "None were measured.",
        configuration=json.dumps(record["meaning"], indent=2),
        revision=revision,
        versions=_table(("package", "trained with", "exported with"), versions),
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])
