"""The steps of a dispatch, chosen from a measurement."""

import json
import sys
import time

import jax.numpy as jnp
from hypothesis import given
from hypothesis import strategies as st

from trainer.parallel.mesh import make_mesh
from trainer.train import steps_per_dispatch
from trainer.train.steps_per_dispatch import Costs, for_cpu, near

MNIST = {"steps_per_epoch": 938, "bytes_per_step": 64 * 784}


def test_a_slow_step_needs_few_a_dispatch_and_a_fast_one_many():
    assert for_cpu(Costs(0, 1e-3), **MNIST) == 1
    assert for_cpu(Costs(1e-3, 1.4e-3), **MNIST) == 134  # beside 238; it divides 938
    assert for_cpu(Costs(1e-3, 2e-5), **MNIST) == 938


def test_as_many_as_are_good_for_memory_and_for_stopping():
    assert near(938, 1e-3, steps_per_epoch=938, bytes_per_step=64 * 784) == 469
    assert near(938, 1e-1, steps_per_epoch=938, bytes_per_step=64 * 784) == 2
    assert near(938, 1e-3, steps_per_epoch=938, bytes_per_step=1 << 20) == 64  # none divides


@given(
    costs=st.builds(Costs, st.floats(0, 1), st.floats(1e-7, 10)),
    steps_per_epoch=st.integers(1, 5000),
    bytes_per_step=st.integers(1, 1 << 30),
)
def test_it_stays_within_bounds(costs, steps_per_epoch, bytes_per_step):
    k = for_cpu(costs, steps_per_epoch, bytes_per_step)
    assert 1 <= k <= steps_per_epoch
    assert k == 1 or k * costs.step <= steps_per_dispatch.LONGEST_SECONDS
    assert k == 1 or k * bytes_per_step <= steps_per_dispatch.LARGEST_BYTES


def test_what_is_measured_is_the_time_of_a_dispatch_and_of_a_step():
    clock, lengths = 0.0, []

    def dispatch(k: int) -> None:
        nonlocal clock
        lengths.append(k)
        clock += 0.5 + 2 * k

    costs = steps_per_dispatch.measure(dispatch, 2.5, lambda: clock)
    assert costs == Costs(0.5, 2.0)
    assert set(lengths) == set(steps_per_dispatch.PROBES)


def test_slow_steps_are_not_measured_for_long():
    mesh, k_of, signs = make_mesh(1), [], []

    def slow(state, inputs):
        k_of.append(len(inputs.lrs))
        time.sleep(0.3)
        return state, inputs.lrs

    chosen = steps_per_dispatch.choose(
        slow,
        jnp.zeros(3),
        mesh=mesh,
        first_step=0,
        steps_per_epoch=938,
        local_batch=64,
        pixels=784,
        alive=lambda: signs.append(True),
    )
    assert chosen == 1
    assert k_of == [1, 1]  # one that compiles, one that is timed
    assert len(signs) == 2


def test_auto_changes_no_result(trainer):
    def train(k: str) -> dict:
        done = trainer("+experiment=smoke", f"train.steps_per_dispatch={k}", f"run.dir={k}")
        assert done.returncode == 0, done.stderr
        return json.loads((trainer.folder / k / "summary.json").read_text())

    chosen, fixed = train("auto"), train("5")
    assert chosen["weights_sha256"] == fixed["weights_sha256"]
    assert 1 <= chosen["steps_per_dispatch"] <= 79


# Each process measures something else, and says what K it takes.
ODD = """
import jax
from trainer.train import steps_per_dispatch
measure, choose = steps_per_dispatch.measure, steps_per_dispatch.choose
def chosen(*arguments, **options):
    k = choose(*arguments, **options)
    print("K", k)
    return k
def measured(*arguments):
    costs = measure(*arguments)
    return costs._replace(dispatch=(1 + jax.process_index()) * 0.02 * costs.step)
steps_per_dispatch.measure, steps_per_dispatch.choose = measured, chosen
from trainer.__main__ import main
main()
"""


def test_all_processes_take_the_same(trainer):
    arguments = ("+experiment=smoke", "train.steps_per_dispatch=auto", "run.dir=run")
    taken = []
    for process in trainer.start_all(2, *arguments, program=(sys.executable, "-c", ODD)):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        taken += [line for line in out.splitlines() if line.startswith("K ")]
    summary = json.loads((trainer.folder / "run" / "summary.json").read_text())
    assert taken == [f"K {summary['steps_per_dispatch']}"] * 2
