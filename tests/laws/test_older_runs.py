"""Run directories written by an older version: all commands know them, and training resumes."""

import json
import shutil

import pytest
from support.in_process import ended, summary_of, train
from support.mutations import sealed
from support.trained_runs import copy

from trainer.commands import evaluate, runs, verify
from trainer.export import command as export
from trainer.job.signals import StopRequest
from trainer.tracking import metrics

pytestmark = pytest.mark.slow  # as test_damaged_runs
# What a checkpoint's record had on 2026-11-25, before users could bring a model.
KEYS = (
    *("meaning", "objective", "config", "config_sha256", "data_root", "versions", "progress"),
    *("files", "step", "test_accuracy", "leaves"),
)
OBJECTIVE = ("loss", "num_classes", "pixel_mean", "pixel_std", "precision", "image_shape")
CONFIG = {
    "run": ("dir", "legacy_prng", "name", "quiet", "root", "seed"),
    "data": (
        *("cache_dir", "download", "mirrors", "name", "num_classes", "offline_fallback"),
        *("pixel_mean", "pixel_std", "root", "sha256", "shuffle", "timeout_seconds"),
    ),
    "model": ("hidden_sizes", "kernel_initializer", "loss", "name", "pixels", "precision"),
    "optim": ("lr", "momentum", "name", "nesterov", "schedule", "warmup_fraction"),
    "train": (
        *("compilation_cache_dir", "deterministic", "epochs", "eval_batch_size"),
        *("eval_every_epochs", "global_batch_size", "log_every_steps", "on_nonfinite"),
        *("pictures_every_epochs", "profile_steps", "steps_per_dispatch"),
    ),
    "checkpoint": ("every_epochs", "every_steps", "keep_best", "keep_last", "max_failed_saves"),
    "parallel": ("devices", "method", "virtual_shards"),
}
SUMMARY_LACKS = ("environment", "fallback_from", "best", "metrics")
PROGRESS = ("window", "epoch", "skipped")
COMMANDS = {
    "runs": (runs, ()),
    "verify": (verify, ()),
    "evaluate": (evaluate, ()),
    "export": (export, ("out",)),
}


def only(value, keys):
    return {key: value[key] for key in keys}


WHOLE = "data.validation_fraction=0"  # there was no validation split


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    done = train(folder, "+experiment=smoke", "run.dir=run", WHOLE)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def older(whole_run, tmp_path):
    """The folder of a run as an older version would have written it."""
    run = tmp_path / "run"
    copy(whole_run, run)
    log = run / "metrics.jsonl"
    log.write_text(log.read_text().replace('"split": "test"', '"split": "eval"'))
    for path in run.glob("checkpoints/*/record.json"):
        record = only(json.loads(path.read_text()), KEYS)
        record["objective"] = only(record["objective"], OBJECTIVE)
        record["progress"] = only(record["progress"], PROGRESS)
        record["config"] = {
            name: only(record["config"][name], keys) for name, keys in CONFIG.items()
        }
        path.write_text(json.dumps(sealed(record)))
    summary = json.loads((run / "summary.json").read_text())
    for key in SUMMARY_LACKS:
        del summary[key]
    (run / "summary.json").write_text(json.dumps(summary))
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_knows_it(older, name):
    module, options = COMMANDS[name]
    done = ended(older, lambda: module.main(["run", *options], StopRequest()))
    assert done.returncode == 0, done.stderr
    assert "damaged" not in done.stderr


def test_it_resumes_with_the_same_bits_and_points(older, whole_run):
    *_, last = sorted(int(path.name) for path in (older / "run" / "checkpoints").iterdir())
    shutil.rmtree(older / "run" / "checkpoints" / str(last))
    done = train(older, "+experiment=smoke", "run.dir=run", WHOLE)
    assert done.returncode == 0, done.stderr
    summary, expected = summary_of(older), json.loads((whole_run / "summary.json").read_text())
    assert 0 < summary["resumed_from_step"] < last
    assert summary["weights_sha256"] == expected["weights_sha256"]
    assert points(older / "run") == points(whole_run)  # also those that were called `eval`


def points(run):
    """Return the points of a run, without what a clock tells."""
    log = metrics.read(run / "metrics.jsonl")
    return [{k: v for k, v in p.items() if k not in ("time", "examples_per_second")} for p in log]
