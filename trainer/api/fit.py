"""`fit`, `load` and `evaluate`: train and use a model from Python."""

import dataclasses
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import trainer
from trainer.checkpoint import load_model
from trainer.checkpoint.load_model import Trained
from trainer.config import user_module
from trainer.config.compose import compose_each, quoted
from trainer.data.dataset import Dataset
from trainer.job import directory as run_directory
from trainer.job.errors import EXIT_COMPLETED, EXIT_RETRY, ConfigError, TrainerError
from trainer.job.resources import config_dir
from trainer.job.signals import SIGNALS, StopRequest
from trainer.tracking import runs
from trainer.tracking.terminal import Terminal
from trainer.train import job


class Result(NamedTuple):
    """How a training ended."""

    run: Path  # the run directory
    completed: bool  # False: it was stopped and has saved; the same call resumes it
    steps: int
    # The loss and the metrics on the test split; empty until it is evaluated.
    metrics: dict[str, float]
    validation: dict[str, float]  # on the validation split, if there is one; the latest
    weights_sha256: str | None
    summary: dict[str, Any]  # all of summary.json

    def __repr__(self) -> str:
        means = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        state = "completed" if self.completed else "stopped"
        return f"<{self.run}: {state} after {self.steps:,} steps; {means}>"


def fit(task: Any = None, dataset: Any = None, *overrides: str) -> Result:
    """Train, or resume training, as `python -m trainer OVERRIDES` does; the weights are the same.

    A progress bar or lines go to standard error. Ctrl-C saves and returns.

    Args:
        task: a user's file ("digits_cnn.py"), a module, or an object with the functions init, fwd
            and perhaps loss, metrics and Options; None: the built-in MLP.
        dataset: a Dataset, a user's file, or one of the built-in names ("mnist"); None: what the
            overrides say, MNIST without any.
        overrides: options as on the command line: "train.epochs=2", "run.name=first". The same
            run.name or run.dir again resumes that run.

    Raises:
        TrainerError: with the message that the command line would print; its exit_code too.
    """
    words = [*_words("model", task), *_words("data", dataset), *overrides]
    (composed,) = compose_each([words])
    run = composed.config.run
    folder = run_directory.choose(run.root, composed.experiment, run.name, run.dir)
    options = dataclasses.replace(run, dir=str(folder))
    trainer.BEGAN = time.monotonic()  # what came before in this process is not start-up
    stop, handlers = StopRequest(), {number: signal.getsignal(number) for number in SIGNALS}
    stop.install()
    try:
        config = dataclasses.replace(composed.config, run=options)
        code = job.run(composed._replace(config=config), stop)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    summary = runs.last_summary(folder)
    if code not in (EXIT_COMPLETED, EXIT_RETRY):
        error = TrainerError(str(summary.get("error")))
        error.exit_code = code
        raise error
    return Result(
        run=folder,
        completed=code == EXIT_COMPLETED,
        steps=summary["steps"],
        metrics=_results(summary, "test"),
        validation=_results(summary, "validation"),
        weights_sha256=summary["weights_sha256"],
        summary=summary,
    )


def _results(summary: dict[str, Any], split: str) -> dict[str, float]:
    results = {name: summary.get(f"{split}_{name}") for name in summary["metrics"]}
    return {name: value for name, value in results.items() if value is not None}


def load(run: str | Path, step: int | str | None = None, task: Any = None) -> Trained:
    """Load the model in the newest intact checkpoint of a run, in that of a step, or in the "best".

    `load(run).predict(arrays)` gives its outputs. `task` is the object that `fit` was given, if it
    is not in a file.

    Raises:
        TrainerError: there is no such run, no intact checkpoint, or the task's module is missing.
    """
    if task is not None:
        user_module.give("model", task)
    return load_model.load(run_directory.existing(run, "run"), step, Terminal().warn)


def _words(group: str, given: Any) -> list[str]:
    """Return the options that name a task or a data set."""
    if given is None:
        return []
    if isinstance(given, Dataset):
        dataset = given
        given = SimpleNamespace(load=lambda options: dataset, __name__=dataset.name)
    elif isinstance(given, str | Path):
        built_in = {path.stem for path in (config_dir() / group).glob("*.yaml")}
        if str(given) in built_in:
            return [f"{group}={given}"]
        return [f"{group}=module", f"{group}.module={quoted(given)}"]
    elif isinstance(given, dict):
        hint = "dataset: trainer.Dataset(name, train, test)" if group == "data" else "task: a file"
        raise ConfigError(f"fit() got a dict for the {group}", f"give a {hint}")
    elif file := getattr(given, "__file__", None):  # a module
        return [f"{group}=module", f"{group}.module={quoted(file)}"]
    return [f"{group}=module", f"{group}.module={quoted(user_module.give(group, given))}"]


def evaluate(run: str | Path, step: int | str | None = None, task: Any = None) -> dict[str, float]:
    """Return the mean loss and metrics of a run's model on the test split of its data set.

    Arguments and errors are those of `load`.
    """
    from trainer.commands import test_data

    trained, terminal = load(run, step, task), Terminal()
    _, split = test_data.load(trained, None, terminal, StopRequest(), download=True)
    return test_data.evaluate(trained, split).means
