"""MODEL_CARD.md: what an exported model is, where it comes from, its use and its limits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template

from trainer.checkpoint.load_model import Trained
from trainer.tasks.assess import Assessment

SECTIONS = ("data", "model", "optim", "train", "parallel")
# Options of these sections that describe the machine and not the model.
LEFT_OUT = {
    *("root", "cache_dir", "mirrors", "sha256", "download", "offline_fallback"),
    *("timeout_seconds", "compilation_cache_dir"),
}


def write(
    trained: Trained,
    tested: tuple[str, Assessment] | None,
    *,
    name: str,
    checks: Sequence[str],
    weights_sha256: str,
    digests: Mapping[str, str],
    revision: str | None,
    versions: Mapping[str, str | None],
) -> str:
    """Return the card.

    Args:
        trained: the model.
        tested: the name of the test images and the results on them; None: there were none.
        name: of the run.
        checks: the comparisons with the live model, a sentence each.
        weights_sha256: as in summary.json of the run.
        digests: file name -> SHA-256.
        revision: of the source that trained the model.
        versions: package -> version, at the export.
    """
    record, data = trained.record, trained.record["meaning"]["data set"]
    sizes = [kernel.shape for kernel, _ in trained.weights]
    classes = trained.objective.num_classes
    metrics = []
    if tested is not None:
        images, result = tested
        source = f"{images}, {result.examples:,} test images, at the export"
        metrics.append((source, f"{result.accuracy:.2%}", f"{result.loss:.4f}"))
    if (accuracy := record.get("test_accuracy")) is not None:
        source = f"{data['name']}, {data['test_examples']:,} test images, by the run"
        metrics.append((source, f"{accuracy:.2%}", ""))
    packages = [
        (package, record["versions"].get(package) or "", version or "")
        for package, version in versions.items()
    ]
    config = {"run": {"seed": record["config"]["run"]["seed"]}} | {
        section: {k: v for k, v in record["config"][section].items() if k not in LEFT_OUT}
        for section in SECTIONS
    }
    return Template(Path(__file__).with_name("card.md").read_text()).substitute(
        name=name,
        step=f"{trained.step:,}",
        layers="-".join(map(str, [sizes[0][0], *(size[1] for size in sizes)])),
        parameters=f"{sum(array.size for layer in trained.weights for array in layer):,}",
        classes=classes,
        last=classes - 1,
        shape=" x ".join(map(str, trained.image_shape)),
        files=_table(("file", "SHA-256"), [(f"`{f}`", f"`{sha}`") for f, sha in digests.items()]),
        weights_sha256=weights_sha256,
        checks="\n".join(f"- {check}" for check in checks),
        data=data["name"],
        train_examples=f"{data['train_examples']:,}",
        test_examples=f"{data['test_examples']:,}",
        data_sha256=data["sha256"],
        metrics=_table(("data", "accuracy", "loss"), metrics) if metrics else "None were measured.",
        configuration=json.dumps(config, indent=2),
        revision=revision or "unknown",
        versions=_table(("package", "trained with", "exported with"), packages),
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])
