"""The last and the best checkpoints are kept, also after a restart."""

import math

import pytest
from support.checkpoints import make_state, results

from trainer.checkpoint.store import Best


def test_the_last_and_the_best_are_kept_also_after_a_restart(opened):
    with opened(keep_last=2, keep_best=1) as checkpoints:
        for step, accuracy in ((1, 0.7), (2, 0.9), (3, 0.8), (4, None), (5, 0.6)):
            checkpoints.save(step, make_state(step), {}, results(accuracy))
    assert checkpoints.steps == [2, 4, 5]
    with opened(keep_last=2, keep_best=1) as checkpoints:
        checkpoints.restore(make_state())
        checkpoints.save(6, make_state(6), {}, results(0.5))
    assert checkpoints.steps == [2, 5, 6]


@pytest.mark.parametrize(
    ("best", "kept"), [(Best("loss", False), [1, 5]), (Best("f1", True), [3, 5])]
)
def test_the_best_is_that_of_its_metric_and_direction(opened, best, kept):
    results = [(0.1, 0.2), (0.2, math.nan), (0.3, 0.9), (math.nan, 0.5), (0.5, 0.3)]
    with opened(keep_last=1, keep_best=1, best=best) as checkpoints:
        for step, (loss, f1) in enumerate(results[:4], 1):
            checkpoints.save(
                step, make_state(step), {}, {"validation_loss": loss, "validation_f1": f1}
            )
    with opened(keep_last=1, keep_best=1, best=best) as checkpoints:  # from the records
        checkpoints.restore(make_state())
        loss, f1 = results[4]
        checkpoints.save(5, make_state(5), {}, {"validation_loss": loss, "validation_f1": f1})
    assert checkpoints.steps == kept


def test_all_of_the_best_are_kept_while_few_are_known(opened):
    with opened(keep_last=1, keep_best=3) as checkpoints:
        for step, accuracy in ((1, 0.7), (2, 0.9), (3, None), (4, None)):
            checkpoints.save(step, make_state(step), {}, results(accuracy))
    assert checkpoints.steps == [1, 2, 4]
