"""The steps of a dispatch, chosen from a measurement."""

import sys
import time

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.in_process import summary_of, train

from trainer.data.dataset import Superbatch
from trainer.data.stream import Plan
from trainer.parallel.mesh import make_mesh
from trainer.train import steps_per_dispatch
from trainer.train.steps_per_dispatch import best

PLAN = Plan(938, 1, 9380)
MNIST = {"plan": PLAN, "bytes_per_step": 64 * 785}


def test_a_slow_step_needs_few_a_dispatch_and_a_fast_one_many():
    assert best(0.5, **MNIST) == 1
    assert best(1.4e-3, **MNIST) == 134  # beside 142; it divides 938
    assert best(2e-5, **MNIST) == 938
    assert best(5e-4, **MNIST, gpu=True) == 134
    several = {**MNIST, "plan": PLAN._replace(epochs_per_span=5)}
    assert best(1.4e-3, **several) == 134  # an epoch is long: evaluating seldom changes nothing


def test_short_epochs_share_a_dispatch():
    plan = Plan(12, 1, 480, epochs_per_span=10)
    assert best(1e-4, plan, bytes_per_step=32 * 44) == 120
    assert best(5e-4, plan, bytes_per_step=32 * 44) == 60  # these take SHORT_SECONDS
    assert best(5e-4, plan._replace(epochs_per_span=1), bytes_per_step=32 * 44) == 12


def test_as_many_as_fit_into_memory():
    assert best(1e-5, PLAN, bytes_per_step=1 << 20) == 64  # none divides


@given(
    step=st.floats(1e-7, 10),
    steps_per_epoch=st.integers(1, 5000),
    epochs=st.integers(1, 20),
    bytes_per_step=st.integers(1, 1 << 30),
)
def test_it_stays_within_bounds(step, steps_per_epoch, epochs, bytes_per_step):
    plan = Plan(steps_per_epoch, 1, 20 * steps_per_epoch, epochs)
    k = best(step, plan, bytes_per_step)
    assert 1 <= k <= plan.steps_per_span
    assert k == 1 or k * step <= steps_per_dispatch.DISPATCH_SECONDS
    assert k == 1 or k * bytes_per_step <= steps_per_dispatch.LARGEST_BYTES


def test_slow_steps_are_not_measured_for_long(monkeypatch):
    monkeypatch.setattr(steps_per_dispatch, "MOST_SECONDS", 0.1)
    mesh, k_of, signs = make_mesh(1), [], []

    def slow(state, inputs):
        k_of.append(len(inputs.lrs))
        time.sleep(0.3)
        return state, inputs.lrs

    chosen = steps_per_dispatch.choose(
        slow,
        jnp.zeros(3),
        Superbatch({"image": np.zeros((1, 64, 28, 28), np.uint8)}, np.ones((1, 64), np.uint8)),
        mesh=mesh,
        first_step=0,
        plan=PLAN,
        alive=lambda: signs.append(True),
    )
    assert chosen == 1
    assert k_of == [1, 1, 1]  # one that compiles, two that are timed
    assert len(signs) == 3


def test_auto_changes_no_result(tmp_path):
    def trained(k: str) -> dict:
        options = (f"train.steps_per_dispatch={k}", f"run.dir={k}")
        done = train(tmp_path, "+experiment=smoke", *options)
        assert done.returncode == 0, done.stderr
        return summary_of(tmp_path, k)

    chosen, fixed = trained("auto"), trained("5")
    assert chosen["weights_sha256"] == fixed["weights_sha256"]
    assert 1 <= chosen["steps_per_dispatch"] <= 79


# Each process measures something else, and says what K it takes.
ODD = """
import jax, time
from trainer.train import steps_per_dispatch
choose = steps_per_dispatch.choose
def chosen(*arguments, **options):
    class Clock:
        perf_counter = staticmethod(lambda: (1 + jax.process_index()) * time.perf_counter())
    steps_per_dispatch.time = Clock
    k = choose(*arguments, **options)
    print("K", k)
    return k
steps_per_dispatch.choose = chosen
from trainer.__main__ import main
main()
"""


def test_all_processes_take_the_same(trainer):
    arguments = ("+experiment=smoke", "train.steps_per_dispatch=auto", "run.dir=run")
    arguments += ("train.pictures_every_epochs=null",)
    taken = []
    for process in trainer.start_all(2, *arguments, program=(sys.executable, "-c", ODD)):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        taken += [line for line in out.splitlines() if line.startswith("K ")]
    summary = summary_of(trainer.folder)
    assert taken == [f"K {summary['steps_per_dispatch']}"] * 2
