"""When a run ends: early stopping, a number of steps, a time; and what it evaluates and keeps."""

import json
import shutil

import pytest
from support.in_process import StopAfter, points_of, summary_of, train

from trainer.checkpoint import checksums, load_model
from trainer.checkpoint.store import Best
from trainer.train.progress import Patience

RUN = ("+experiment=smoke", "run.dir=run", "train.log_every_steps=11")
SHORT = (*RUN, "train.global_batch_size=400", "train.epochs=30", "train.steps_per_dispatch=3")
# With so high a rate the accuracy goes up and down.
EARLY = (*SHORT, "optim.lr=0.4", "train.stop_early.patience=2", "checkpoint.keep_last=1")
EARLY += ("ema.decay=0.5", "train.accumulate=2", "train.epochs=12")
SAME = ("status", "steps", "weights_sha256", "ema_sha256", "test_loss", "test_accuracy")


def results(folder):
    return {name: summary_of(folder).get(name) for name in SAME}


@pytest.mark.parametrize("start", [1, 3])
def test_patience_counts_evaluations_since_the_last_better_one_from_any_state(start):
    values = [0.5, 0.7, 0.705, 0.69, float("nan"), 0.9]
    patience = Patience(Best("accuracy", largest=True), 3, 0.01, None)
    ended = []
    for number, value in enumerate(values):
        if number == start:
            state = json.loads(json.dumps(patience.state()))
            patience = Patience(Best("accuracy", largest=True), 3, 0.01, state)
        patience.add({"validation_accuracy": value})
        ended.append(patience.ended)
    assert ended == [False, False, False, False, True, False]
    assert not Patience(Best("loss", largest=False), 1, 0.0, patience.state()).ended


def test_a_run_stops_early_at_the_same_step_after_interruptions(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    done = train(whole, *EARLY)
    assert done.returncode == 0, done.stderr
    assert "train.stop_early: the run ends after step" in done.stderr
    expected = results(whole)
    assert expected["status"] == "completed"
    assert 20 < expected["steps"] < 300
    stop = StopAfter(9)
    done = train(broken, *EARLY, stop=stop)
    assert done.returncode == 75, done.stderr
    done = train(broken, *EARLY, "train.steps_per_dispatch=7")
    assert done.returncode == 0, done.stderr
    assert results(broken) == expected
    assert points_of(broken) == points_of(whole)
    again = train(whole, *EARLY)
    assert again.returncode == 0
    assert results(whole) == expected


def test_a_run_of_some_steps_is_part_of_a_longer_one(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    assert train(whole, *SHORT, "train.epochs=3").returncode == 0
    for most in (4, 15):
        done = train(parts, *SHORT, "train.epochs=3", f"train.max_steps={most}")
        assert done.returncode == 0, done.stderr
        summary = summary_of(parts)
        assert (summary["status"], summary["steps"]) == ("completed", most)
        assert f"step {most}" in " ".join(done.stderr.split())
    assert train(parts, *SHORT, "train.epochs=3").returncode == 0
    assert results(parts) == results(whole)
    done = train(parts, *SHORT, "train.epochs=3", "train.max_steps=15")
    assert done.returncode == 78
    assert "with train.max_steps, allow 15 steps" in done.stderr


def test_epochs_may_be_added_where_the_steps_done_keep_their_rates(tmp_path):
    stable = ("optim.schedule=warmup_stable_decay", "optim.decay_fraction=0.5")
    stable += ("optim.warmup_steps=3",)
    assert train(tmp_path, *SHORT, *stable, "train.epochs=4", "train.max_steps=16").returncode == 0
    shutil.copytree(tmp_path / "run", tmp_path / "other" / "run")
    done = train(tmp_path, *SHORT, *stable, "train.epochs=6")
    assert done.returncode == 0, done.stderr
    assert summary_of(tmp_path)["resumed_from_step"] == 16
    done = train(tmp_path / "other", *SHORT, *stable, "train.epochs=3")
    assert done.returncode == 78
    assert "train.epochs: 4 in the checkpoint, 3 in this configuration" in done.stderr
    assert "steps that are done would have had another learning rate" in done.stderr


@pytest.mark.parametrize("code", [0, 75])
def test_a_run_ends_when_its_time_is_over_and_can_continue(tmp_path, code):
    long = (*SHORT, "train.epochs=3", f"train.max_seconds_exit={code}")
    done = train(tmp_path, *long, "train.max_seconds=0.001")
    assert done.returncode == code, done.stderr
    summary = summary_of(tmp_path)
    assert summary["steps"] == 6  # the votes of a dispatch are seen after the next is started
    assert summary["status"] == ("completed" if code == 0 else "preempted")
    assert (summary["test_loss"] is None) == (code == 75)
    assert ("train.max_seconds=0.001: saved after step 6" in done.stderr) == (code == 75)
    assert train(tmp_path, *long).returncode == 0
    assert summary_of(tmp_path)["steps"] == 27


@pytest.mark.parametrize("evaluate", ["true", "false"])
def test_the_average_is_evaluated_kept_and_loaded_where_asked(tmp_path, evaluate):
    options = (*SHORT, "train.epochs=2", "ema.decay=0.9", f"ema.evaluate={evaluate}")
    done = train(tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert "ema.decay=0.9: 15% of the average after 18 steps are the first weights" in done.stderr
    trained = load_model.load(tmp_path / "run", None, print)
    summary = summary_of(tmp_path)
    digest = checksums.of_weights(trained.weights)
    assert digest == summary["ema_sha256" if evaluate == "true" else "weights_sha256"]
    assert summary["ema_sha256"] != summary["weights_sha256"]


def test_few_steps_and_few_batches_for_debugging(tmp_path):
    options = (*RUN, "train.global_batch_size=400", "train.log_gradient_norm=true")
    seldom = ("train.eval_every_epochs=40", "checkpoint.every_epochs=40")
    done = train(tmp_path, *options, *seldom, "train.epochs=40", "train.overfit_batches=1")
    assert done.returncode == 0, done.stderr
    summary, points = summary_of(tmp_path), points_of(tmp_path)
    assert summary["steps"] == 40
    last = [point for point in points if point["split"] == "train"][-1]
    assert last["accuracy"] > 0.99  # of the 400 examples
    assert 0 < last["gradient_norm"] < 1
    assert summary["test_accuracy"] < 0.95
    shutil.rmtree(tmp_path / "run")
    assert train(tmp_path, *options, "train.limit_steps=3").returncode == 0
    assert (summary_of(tmp_path)["steps"], summary_of(tmp_path)["epochs"]) == (6, 2)
