"""What TensorBoard shows of a run besides its curves: layout, texts, pictures, histograms."""

from __future__ import annotations

import io
import json
import math
import resource
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from PIL import Image
from tensorboardX import summary

from trainer import confusion_picture, pictures
from trainer.datasets import Dataset
from trainer.evaluate import Outcome
from trainer.model import Weights
from trainer.tracking import Tracker

SAMPLES, WRONG = 16, 32  # digits shown
LAYOUT = {
    "Training": {
        "loss": ["Multiline", ["train/loss", "eval/loss"]],
        "accuracy": ["Multiline", ["train/accuracy", "eval/accuracy"]],
        "learning rate": ["Multiline", ["train/lr"]],
        "accuracy by class": ["Multiline", ["class_accuracy/.*"]],
    },
    "Speed": {
        "examples per second": ["Multiline", ["train/examples_per_second"]],
        "milliseconds a step": ["Multiline", ["time/step_ms", "time/data_wait_ms", "time/rest_ms"]],
        "goodput": ["Multiline", ["time/goodput"]],
        "memory, MB": ["Multiline", ["memory/.*"]],
    },
    "Layers": {
        "weight norms": ["Multiline", ["weight_norm/.*"]],
        "gradient norms": ["Multiline", ["gradient_norm/.*"]],
    },
}


class Dashboard:
    """Shows a run as it goes on; process 0 alone."""

    def __init__(self, tracker: Tracker, dataset: Dataset) -> None:
        """Describe it; nothing is written yet.

        Args:
            tracker: writes the event files.
            dataset: whose test split is evaluated.
        """
        self._tracker, self._dataset = tracker, dataset
        pixels = dataset.test.images.shape[1]
        self._square = math.isqrt(pixels) ** 2 == pixels  # else they are not drawn
        self._before = dict.fromkeys(("steps", "step", "data_wait", "all"), 0.0)

    def begin(self, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Show what does not change, once for all starts of a run."""
        tracker, train = self._tracker, self._dataset.train
        tracker.summary(0, summary.custom_scalars(LAYOUT))
        for tag, facts in (("configuration", config), ("environment", environment)):
            told = json.dumps(facts, indent=2, default=str)
            tracker.text(tag, "\n".join("    " + line for line in told.splitlines()))
        captions = [str(label) for label in train.labels[:SAMPLES]]
        if self._square:
            self._picture(0, "inputs", pictures.digits(train.images[:SAMPLES], captions))
        experiment, start, _ = summary.hparams(_hparams(config), dict.fromkeys(METRICS, 0.0))
        tracker.summary(0, experiment)
        tracker.summary(0, start)

    def end(self, config: Mapping[str, Any]) -> None:
        """Say that the run is completed, to the table of hyperparameters."""
        *_, end = summary.hparams(_hparams(config), dict.fromkeys(METRICS, 0.0))
        self._tracker.summary(0, end)

    def evaluation(
        self,
        step: int,
        outcome: Outcome,
        seconds: Mapping[str, float],
        goodput: float,
        gradient_norms: Mapping[str, float],
    ) -> None:
        """Add a point to the curves of an evaluation after `step` steps.

        Args:
            step: optimizer steps done.
            outcome: of the evaluation.
            seconds: of each phase, of this start so far.
            goodput: fraction of all seconds that went into steps that were kept.
            gradient_norms: by layer.
        """
        confusion = self._confusion(outcome)
        right = np.diag(confusion) / np.maximum(confusion.sum(axis=1), 1)
        values = {f"class_accuracy/{name}": float(x) for name, x in enumerate(right)}
        norms = gradient_norms.items()
        values |= {f"gradient_norm/{name.replace(' ', '/')}": x for name, x in norms}
        values |= self._times(step, seconds) | {"time/goodput": goodput}
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        values["memory/host_peak"] = host
        for device in jax.local_devices()[:1]:
            if stats := device.memory_stats():
                values["memory/device_peak"] = stats.get("peak_bytes_in_use", 0) / 2**20
        self._tracker.curves(step, values)

    def look(self, step: int, outcome: Outcome, weights: Weights) -> None:
        """Show what takes longer to draw: pictures and histograms; `weights` are on the host."""
        confusion = self._confusion(outcome)
        png = confusion_picture.png(confusion, f"after {step:,} steps")
        self._picture(step, "confusion", np.asarray(Image.open(io.BytesIO(png))))
        test = self._dataset.test
        wrong = np.flatnonzero(outcome.predictions != test.labels)
        worst = wrong[np.argsort(-outcome.confidences[wrong], kind="stable")[:WRONG]]
        if len(worst) and self._square:
            captions = [f"{test.labels[i]} as {outcome.predictions[i]}" for i in worst]
            self._picture(step, "most_wrong", pictures.digits(test.images[worst], captions))
        if self._square:
            self._picture(step, "filters", pictures.filters(np.asarray(weights[0].kernel)))
        norms = {}
        for index, layer in enumerate(weights):
            for name, leaf in layer._asdict().items():
                label = f"layer/{index}/{name}"
                self._tracker.summary(step, summary.histogram(f"weights/{label}", leaf.ravel(), 64))
                norms[f"weight_norm/{label}"] = float(np.linalg.norm(leaf))
        self._tracker.curves(step, norms)

    def _confusion(self, outcome: Outcome) -> npt.NDArray[np.int64]:
        labels = self._dataset.test.labels.astype(np.int64)
        classes = 1 + max(int(labels.max()), int(outcome.predictions.max()))
        pairs = labels * classes + outcome.predictions
        return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def _times(self, step: int, seconds: Mapping[str, float]) -> dict[str, float]:
        """Split the time since the last evaluation by what each step of it took."""
        now = {"steps": float(step), "all": sum(seconds.values())}
        now |= {name: seconds[name] for name in ("step", "data_wait")}
        last, self._before = self._before, now
        steps = now["steps"] - last["steps"]
        if steps <= 0 or not last["steps"]:
            return {}  # the first covers start-up and compilation as well
        spent = {name: 1e3 * (now[name] - last[name]) / steps for name in ("step", "data_wait")}
        rest = 1e3 * (now["all"] - last["all"]) / steps - sum(spent.values())
        return {f"time/{name}_ms": value for name, value in spent.items()} | {"time/rest_ms": rest}

    def _picture(self, step: int, tag: str, picture: pictures.Picture) -> None:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        self._tracker.image(step, tag, buffer.getvalue(), picture.shape[:2])


METRICS = ("eval/accuracy", "eval/loss")  # columns of the table of hyperparameters


def _hparams(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a sweep varies, as the table takes them."""
    chosen = {f"optim.{name}": value for name, value in config["optim"].items()}
    chosen |= {f"model.{name}": value for name, value in config["model"].items()}
    chosen["run.seed"] = config["run"]["seed"]
    for name in ("epochs", "global_batch_size"):
        chosen[f"train.{name}"] = config["train"][name]
    simple = (bool, int, float, str)
    return {k: v if isinstance(v, simple) else str(v) for k, v in chosen.items() if v is not None}
