"""The laws of training where devices share the state: parallel.shard_state."""

import re

import jax
import numpy as np
import optax
import pytest
from support.steps import assert_equal
from support.tasks import DEVICES, STEPS, K, first_state, program, run, six_steps, subject

from trainer.optimizers import elementwise
from trainer.optimizers.make import from_optax
from trainer.optimizers.optimizer import Update, stochastic_gradient_descent
from trainer.parallel import mesh as meshes
from trainer.parallel import sharding, step
from trainer.plan.traffic import traffic
from trainer.tasks import mlp

# The task, parallel.shard_state, and how many of 4 devices share one copy of the state.
layouts = pytest.mark.parametrize(
    ("name", "mode", "shards"),
    [
        *(("mlp", mode, shards) for mode in ("optimizer", "all") for shards in (None, 2)),
        *(("transformer", "optimizer", 2), ("transformer", "all", None)),
    ],
)
RECIPE = {"clip_norm": 0.05, "log_norm": True, "ema_decay": 0.9}


@pytest.fixture(autouse=True)
def no_implicit_transfers():
    with jax.transfer_guard("disallow"):
        yield


@layouts
def test_one_step_is_that_of_one_device_from_any_state_of_a_training(name, mode, shards):
    states = six_steps(name)
    for i in (0, STEPS - 1):
        how = {"shard_state": mode, "shards": shards}
        after, _ = run(name, DEVICES, steps=range(i, i + 1), state=states[i], **how)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
            after.weights,
            states[i + 1].weights,
        )


@pytest.mark.parametrize(("mode", "shards"), [("optimizer", None), ("all", 2)])
def test_with_the_whole_recipe_a_step_is_that_of_one_device(mode, shards):
    state = first_state("mlp", average=True)
    how = {"accumulate": 2, "remat_parts": 2, **RECIPE}
    expected, rows = run("mlp", 1, steps=range(1), state=state, **how)
    how = {"shard_state": mode, "shards": shards, **how}
    after, packed = run("mlp", DEVICES, steps=range(1), state=state, **how)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
        (after.weights, after.ema),
        (expected.weights, expected.ema),
    )
    np.testing.assert_allclose(packed[:, :-1], rows[:, :-1], rtol=1e-5)


@pytest.mark.parametrize(
    "how", [{}, {"shard_state": "optimizer"}, {"shard_state": "all", "remat_parts": 2}], ids=str
)
def test_gradients_sent_in_bfloat16_are_rounded(how):
    exact = run("mlp", DEVICES, steps=range(1))[0].optim_state[0].mu
    done, _ = run("mlp", DEVICES, steps=range(1), reduce_dtype="bfloat16", **how)
    rounded = done.optim_state[0].mu
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=np.abs(b).max() / 64),
        rounded,
        exact,
    )
    assert (rounded[0].kernel != exact[0].kernel).any()  # small leaves may stay exact


@layouts
def test_k_steps_in_one_dispatch_are_k_dispatches_bit_for_bit(name, mode, shards):
    how = {"shard_state": mode, "shards": shards}
    assert_equal(run(name, DEVICES, K, **how), run(name, DEVICES, 1, **how))


@pytest.mark.parametrize(
    ("name", "mode", "devices", "shards"),
    [
        ("mlp", "none", 4, None),
        *(("mlp", mode, 4, shards) for mode in ("optimizer", "all") for shards in (None, 2)),
        ("mlp", "all", 2, None),
        *(("transformer", "optimizer", 4, 2), ("transformer", "all", 4, None)),
    ],
)
def test_virtual_shards_give_the_bits_of_one_device(name, mode, devices, shards):
    """With the whole recipe, and K steps in one dispatch, of one step in each."""
    expected = run(name, 1, 1, virtual_shards=4, **RECIPE)
    how = {"shard_state": mode, "shards": shards, **RECIPE}
    assert_equal(run(name, devices, K, virtual_shards=4, **how), expected)


@pytest.mark.parametrize("mode", ["none", "all"])
def test_virtual_shards_give_the_bits_of_one_device_where_gradients_are_rounded(mode):
    how = {"virtual_shards": 4, "reduce_dtype": "bfloat16"}
    expected = run("mlp", 1, K, **how)
    assert_equal(run("mlp", DEVICES, K, shard_state=mode, **how), expected)
    exact = run("mlp", 1, K, virtual_shards=4)[0].weights[0].kernel
    assert (expected[0].weights[0].kernel != exact).any()


@pytest.mark.parametrize(
    ("name", "mode"), [("mlp", "optimizer"), ("mlp", "all"), ("transformer", "all")]
)
def test_the_collectives_of_a_step(name, mode):
    _, compiled, shardings = program(name, DEVICES, 1, shard_state=mode)
    split = [s for s in jax.tree.leaves(shardings.optim_state[0].mu) if not s.is_fully_replicated]
    assert split
    # As one array, gathered once more at the end of a dispatch; or leaf by leaf.
    scatters, gathers = (1, 2) if mode == "optimizer" else (len(split), len(split))
    collectives = traffic(compiled.as_text()).collectives
    assert collectives == {"all-reduce": 1, "reduce-scatter": scatters, "all-gather": gathers}


def test_gradients_of_a_layer_are_sent_while_those_of_the_layers_before_are_computed():
    text = program("mlp", DEVICES, 1, shard_state="all")[1].as_text()
    (loop,) = [part for part in text.split("\n\n") if " reduce-scatter(" in part]
    order = re.findall(r" (dot|reduce-scatter)\(", loop)  # as the program runs them
    before_the_last_product = order[: len(order) - order[::-1].index("dot")]
    assert before_the_last_product.count("reduce-scatter") >= 2


def test_with_remat_weights_are_gathered_again_in_the_backward_pass():
    _, compiled, shardings = program("transformer", DEVICES, 1, shard_state="all", remat_parts=3)
    split = [s for s in jax.tree.leaves(shardings.weights) if not s.is_fully_replicated]
    collectives = traffic(compiled.as_text()).collectives
    assert collectives["reduce-scatter"] >= len(split)
    assert len(split) < collectives["all-gather"] <= 2 * len(split) + 3


def test_with_remat_no_device_holds_all_weights_at_once():
    _, compiled, _ = program("deep mlp", DEVICES, 1, shard_state="all", remat_parts=8)
    whole = sum(x.nbytes for x in jax.tree.leaves(first_state("deep mlp").weights))
    assert compiled.memory_analysis().temp_size_in_bytes < 0.6 * whole


def wide_mlp():
    objective = mlp.Objective("softmax_crossentropy", 10, 33.3, 78.6)
    return mlp.make(objective, (28, 28), [4096, 4096], "he_normal")


@pytest.mark.parametrize("name", ["wide mlp", "transformer"])
def test_each_of_8_devices_has_an_eighth_of_the_state(name):
    task = wide_mlp() if name == "wide mlp" else subject(name).task
    update = Update(from_optax(optax.adamw, {}), ema_decay=0.9)
    key = jax.ShapeDtypeStruct((2,), "uint32")
    state = jax.eval_shape(lambda key: step.new_state(task, update, key), key)
    mesh = meshes.make_mesh(8)

    def bytes_of(mode):
        shapes = jax.tree.map(
            lambda x, s: np.prod(s.shard_shape(x.shape)) * x.dtype.itemsize,
            state,
            sharding.of_state(state, mesh, mode),
        )
        return sum(jax.tree.leaves(shapes)), sum(jax.tree.leaves(shapes.weights))

    whole, weights = bytes_of("none")
    assert bytes_of("all")[0] <= whole / 8 * 1.05
    assert bytes_of("optimizer")[0] <= weights + (whole - weights) / 8 * 1.05


@pytest.mark.parametrize(
    ("optimizer", "mixes"),
    [
        (stochastic_gradient_descent(0.9, nesterov=True), None),
        (from_optax(optax.adamw, {}), None),
        (from_optax(optax.lion, {}), None),
        (from_optax(optax.contrib.muon, {}), "dot_general"),
        (from_optax(optax.lamb, {}), "reduce_sum"),
        (from_optax(optax.adafactor, {}), "reduce_sum"),
    ],
)
def test_an_optimizer_that_mixes_elements_is_found_by_its_program(optimizer, mixes):
    weights = {"w": jax.ShapeDtypeStruct((256, 128), "float32")}
    mixing = elementwise.first_mixing(optimizer, weights)
    assert mixing == mixes or (mixes is not None and mixing is not None)
