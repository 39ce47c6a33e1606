"""Naming and ranking the trials of a sweep."""

import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.sweep import folder as sweep_folder
from trainer.sweep import plan
from trainer.sweep.folder import Result

keys = st.sampled_from(["optim.lr", "model.hidden_sizes", "+experiment", "data.root", "run.seed"])
texts = st.text(max_size=12) | st.sampled_from(["[1,2]", "a,b=c", "../x", "a/b", "'q'", "%2F", ""])
value_dicts = st.dictionaries(keys, texts | st.integers(60, 300).map("w".__mul__), min_size=1)
PLAN = plan.Plan(Path("/sweep"), ["train.epochs=1"], [], {}, [], 1, [], [])


@given(value_dicts)
def test_a_name_is_a_plain_folder_name_whatever_the_values_are(values):
    name = PLAN.trial(values).name
    assert name.isascii()
    assert len(name) <= 120
    assert not set(name) & set("/\\\0 '\"$`*?{}()<>|;&!#")
    assert not name.startswith((".", "-"))


@given(st.lists(keys, min_size=1, unique=True).flatmap(
    lambda chosen: st.tuples(*[st.fixed_dictionaries(dict.fromkeys(chosen, texts))] * 2)
))  # fmt: skip
def test_no_two_combinations_of_values_have_one_name(pair):
    one, other = (PLAN.trial(values).name for values in pair)
    assert (one == other) == (pair[0] == pair[1])


@given(value_dicts, st.randoms())
def test_a_name_does_not_depend_on_the_order_of_the_options(values, rng):
    items = list(values.items())
    rng.shuffle(items)
    assert PLAN.trial(dict(items)) == PLAN.trial(values)


def test_the_names_of_a_usual_sweep():
    trial = PLAN.trial({"run.seed": "0", "optim.lr": "0.02"})
    own = ("train.epochs=1", "optim.lr=0.02", "run.seed=0")
    assert trial.overrides == (*own, "run.dir='/sweep/optim.lr=0.02,run.seed=0'")
    assert PLAN.trial({"data.root": "/a b"}).name == "data.root=%2Fa%20b"
    assert PLAN.trial({"model.hidden_sizes": "[16,8]"}).name == "model.hidden_sizes=[16,8]"
    assert PLAN.trial({"data.root": "\udcff"}).name == "data.root=%FF"  # a byte that is no UTF-8


made_results = st.lists(
    st.builds(
        lambda lr, seed, status, score, tested: Result(
            f"{lr},{seed}",
            {"optim.lr": lr, "run.seed": seed},
            status,
            score=score,
            test_score=tested,
        ),
        st.sampled_from(["0.1", "0.2"]),
        st.sampled_from("0123"),
        st.sampled_from(sweep_folder._ORDER),
        st.floats(0, 1),
        st.floats(0, 1),
    ),
    max_size=12,
)


@given(made_results)
def test_completed_trials_come_first_and_best_first(results):
    ranked = sweep_folder.rank(results)
    assert sorted(id(result) for _, result in ranked) == sorted(map(id, results))
    completed = [r.score for place, r in ranked if place is not None]
    assert completed == sorted(completed, reverse=True)
    assert [place for place, _ in ranked[: len(completed)]] == [*range(1, len(completed) + 1)]
    assert all((r.status == "completed") == (place is not None) for place, r in ranked)


def test_a_score_that_is_not_a_number_is_the_worst():
    scores = [float("nan"), 0.2, 0.1]
    results = [Result(str(x), {}, "completed", score=x) for x in scores]
    assert [r.score for _, r in sweep_folder.rank(results)][:2] == [0.2, 0.1]


def test_the_test_split_ranks_nothing():
    """Of two trials without a validation split, and of two that are equal on it."""
    for score in (None, 0.5):
        results = [
            Result(str(tested), {}, "completed", score=score, test_score=tested)
            for tested in (0.1, 0.9)
        ]
        ranked = sweep_folder.rank(results)
        assert [result.test_score for _, result in ranked] == [0.1, 0.9]
        assert [place for place, _ in ranked] == ([None, None] if score is None else [1, 2])
        (group,) = sweep_folder.groups(results)
        assert (group.mean, group.test_mean) == (score, 0.5)


@given(made_results)
def test_a_group_is_the_completed_trials_that_differ_only_in_the_seed(results):
    for group in sweep_folder.groups(results):
        own = [
            (r.score, r.test_score)
            for r in results
            if r.status == "completed" and r.values["optim.lr"] == group.values["optim.lr"]
        ]
        assert group.seeds == len(own)
        for scores, mean, spread in zip(
            zip(*own, strict=True), group[2:6:2], group[3:6:2], strict=True
        ):
            assert mean == pytest.approx(statistics.fmean(scores))
            assert (spread is None) == (len(scores) == 1)
            if len(scores) > 1:
                assert spread == pytest.approx(statistics.stdev(scores))
    counted = sum(group.seeds for group in sweep_folder.groups(results))
    assert counted == sum(r.status == "completed" for r in results)
