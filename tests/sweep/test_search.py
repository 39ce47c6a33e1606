"""A search finds good values, and an interrupted one resumes where it ended."""

import statistics
import sys

import pytest

from trainer.job.errors import ConfigError, Preempted
from trainer.sweep import folder as sweep_folder

# Searching.

SEARCH = (
    *("hydra/sweeper=search", "hydra.sweeper.n_trials=5", "optim.lr=tag(log,interval(0.01,1))"),
    "+hydra.sweeper.sampler.n_startup_trials=2",
)


def test_a_search_finds_good_values_and_stays_in_the_ranges(trials):
    code, names = trials.run(*SEARCH, "model.hidden_sizes=[16],[8]", "hydra.sweeper.n_trials=12")
    assert (code, len(names), len(set(names))) == (0, 12, 12)
    rates = [float(trial.values["optim.lr"]) for trial in trials.trained]
    assert all(0.01 <= rate <= 1 for rate in rates)
    assert {trial.values["model.hidden_sizes"] for trial in trials.trained} == {"[16]", "[8]"}
    early, late = (
        statistics.median(abs(r - 0.07) for r in part) for part in (rates[:6], rates[6:])
    )
    assert late < early


def test_an_interrupted_search_resumes_where_it_ended(trials, tmp_path):
    _, unbroken = trials.run(*SEARCH)
    trials.folder = tmp_path / "broken"
    trials.codes = {5 + 4: 75}
    with pytest.raises(Preempted):
        trials.run(*SEARCH)
    assert trials.run(*SEARCH) == (0, unbroken[3:])
    assert trials.run(*SEARCH) == (0, [])
    assert len(trials.run(*SEARCH, "hydra.sweeper.n_trials=6")[1]) == 1
    assert [r.name for r in sweep_folder.results(trials.folder)][:5] == unbroken


def test_a_search_proposes_batches_whatever_ends_first_or_is_interrupted(trials, tmp_path):
    two = (*SEARCH, "hydra.sweeper.n_trials=6", "sweep.parallel=2")
    _, unbroken = trials.run(*two)
    trials.folder = tmp_path / "one by one"
    _, one_by_one = trials.run(*SEARCH)
    assert unbroken[:3] == one_by_one[:3]
    assert unbroken[3] != one_by_one[3]  # proposed before the third had ended
    trials.folder = tmp_path / "broken"
    trials.codes = {6 + 5 + 3: 75}  # the fourth, at work beside it, still ends well
    with pytest.raises(Preempted, match=r"3/6 .*: broken"):
        trials.run(*two)
    assert trials.run(*two) == (0, [unbroken[2], *unbroken[4:]])
    assert [r.name for r in sweep_folder.results(trials.folder)] == unbroken


def test_another_seed_is_another_search(trials, tmp_path):
    random_sampler = "hydra/sweeper=search", "hydra.sweeper.n_trials=3", SEARCH[2]
    sampler = "hydra.sweeper.sampler._target_=optuna.samplers.RandomSampler"
    actual = set()
    for seed in (0, 1):
        trials.folder = tmp_path / str(seed)
        actual.update(trials.run(*random_sampler, sampler, f"hydra.sweeper.sampler.seed={seed}")[1])
    assert len(actual) == 6


def test_a_search_goes_on_after_a_failed_trial_and_without_new_values(trials):
    trials.codes = {1: 70}
    ranges = ("hydra/sweeper=search", "hydra.sweeper.n_trials=9", "run.seed=range(0,3)")
    code, names = trials.run(*ranges, "train.epochs=int(interval(1,2))")
    assert code == 70
    assert len(names) == len(set(names)) == 6
    assert trials.run(*ranges, "train.epochs=int(interval(1,2))") == (0, names[:1])


def test_without_optuna_the_search_says_what_to_install(trials, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[optuna\]' in the checkout"):
        trials.run(*SEARCH)
    assert not trials.folder.exists()
