"""Learning rate schedules: pure functions of the step, with the values of optax's."""

import jax
import numpy as np
import optax
import pytest

from trainer.config.compose import compose
from trainer.job.errors import ConfigError
from trainer.optimizers import schedules
from trainer.optimizers.schedules import Spans

LR, WARMUP, TOTAL, FLOOR = 0.1, 10, 100, 0.05
RISE = optax.linear_schedule(LR / WARMUP, LR, WARMUP - 1)  # ours moves at step 0
SPANS = Spans(TOTAL, WARMUP, decay=20, boundaries=(30, 60))


def risen(schedule):
    return optax.join_schedules([RISE, schedule], [WARMUP])


CASES = {  # name -> our other arguments, optax's
    "constant": ((), optax.constant_schedule(LR)),
    "warmup_linear": ((FLOOR,), risen(optax.linear_schedule(LR, LR * FLOOR, TOTAL - WARMUP))),
    "warmup_cosine": ((FLOOR,), risen(optax.cosine_decay_schedule(LR, TOTAL - WARMUP, FLOOR))),
    "warmup_stable_decay": (
        (FLOOR,),
        optax.join_schedules(
            [RISE, optax.constant_schedule(LR), optax.linear_schedule(LR, LR * FLOOR, 20)],
            [WARMUP, TOTAL - 20],
        ),
    ),
    # optax multiplies the factors one after the other.
    "piecewise": (
        (0.0, (0.5, 0.1)),
        risen(optax.piecewise_constant_schedule(LR, {20: 0.5, 50: 0.2})),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_schedule_has_the_values_of_optax_whatever_steps_are_taken_at_once(name):
    arguments, expected = CASES[name]
    schedule, steps = schedules.make(name, LR, SPANS, *arguments), np.arange(TOTAL + 20)
    rates = schedule(steps)
    assert rates.dtype == np.float32
    with jax.numpy_dtype_promotion("standard"):
        theirs = [float(expected(step)) for step in steps]
    np.testing.assert_allclose(rates, theirs, rtol=2e-6)
    np.testing.assert_array_equal(rates, np.concatenate([schedule(each[None]) for each in steps]))
    assert rates.max() == np.float32(LR)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("warmup")])
def test_a_decay_without_warm_up_starts_at_its_peak_and_ends_at_zero(name):
    rates = schedules.make(name, LR, Spans(TOTAL, 0, 20))(np.array([0, TOTAL]))
    assert rates.tolist() == [np.float32(LR), 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("optim.schedule=step", "constant, piecewise, warmup_linear, warmup_cosine, warmup_stable"),
        ("optim.final_fraction=1", "optim.final_fraction=1.0: use a number in [0, 1)"),
        (
            "optim.schedule=constant optim.final_fraction=0.1",
            "optim.final_fraction=0.1: only optim.schedule=warmup_linear or warmup_cosine or",
        ),
        (
            "optim.schedule=warmup_stable_decay",
            "optim.decay_fraction=null: optim.schedule=warmup_stable_decay needs it, like optim",
        ),
        ("optim.decay_fraction=0.2", "only optim.schedule=warmup_stable_decay has it: choose"),
        ("optim.schedule=piecewise", "optim.boundaries=null: optim.schedule=piecewise needs it"),
        ("optim.boundaries=[2,1]", "optim.boundaries=[2.0, 1.0]: use at least one epoch, in asc"),
        (
            "optim.schedule=piecewise optim.boundaries=[5,8] optim.factors=[0.1]",
            "optim.factors=[0.1]: use as many as there are in optim.boundaries=[5.0, 8.0]",
        ),
        ("optim.factors=[10]", "optim.factors=[10.0]: use numbers from 0 to 1"),
        ("optim.warmup_steps=-1", "optim.warmup_steps=-1: use a whole number from 0"),
    ],
)
def test_a_wrong_schedule_is_named_with_its_rule(arguments, message):
    with pytest.raises(ConfigError) as raised:
        compose(arguments.split())
    assert message in str(raised.value)
    assert raised.value.exit_code == 78
