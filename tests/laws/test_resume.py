"""A run that was stopped and resumed, anywhere, ends with the bits of an uninterrupted one."""

import pytest
from support.in_process import StopAfter, points_of, summary_of, train

RUN = ("+experiment=smoke", "run.dir=run", "train.log_every_steps=11")
SAME = ("status", "steps", "weights_sha256", "test_loss", "test_accuracy")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run, never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    done = train(folder, *RUN, "train.steps_per_dispatch=5")
    assert done.returncode == 0, done.stderr
    return folder


# Three questions come before training, then there is one a dispatch.
@pytest.mark.parametrize(
    ("questions", "k", "then_k"), [(4, 5, 5), (9, 5, 4), (20, 5, 57), (25, 1, 7)]
)
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(tmp_path, whole, questions, k, then_k):
    stopped = train(tmp_path, *RUN, f"train.steps_per_dispatch={k}", stop=StopAfter(questions))
    assert stopped.returncode == 75, stopped.stderr
    before = summary_of(tmp_path)
    assert before["status"] == "preempted"
    assert 0 < before["steps"] < 114
    done = train(tmp_path, *RUN, f"train.steps_per_dispatch={then_k}")
    assert done.returncode == 0, done.stderr
    after, expected = summary_of(tmp_path), summary_of(whole)
    assert after["resumed_from_step"] == before["steps"]
    assert {key: after[key] for key in SAME} == {key: expected[key] for key in SAME}
    assert points_of(tmp_path) == points_of(whole)


def test_a_completed_run_started_again_trains_nothing(tmp_path, whole):
    (tmp_path / "run").symlink_to(whole / "run")
    before, points = summary_of(whole), points_of(whole)
    done = train(tmp_path, *RUN, "train.steps_per_dispatch=5")
    assert done.returncode == 0, done.stderr
    after = summary_of(whole)
    assert after["resumed_from_step"] == after["steps"] == before["steps"]
    assert {key: after[key] for key in SAME} == {key: before[key] for key in SAME}
    assert points_of(whole) == points
