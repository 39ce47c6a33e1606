"""The options of `augment`: what they change in training, and that they change nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.in_process import StopAfter, points_of, summary_of, train

from trainer.config.schema import AugmentConfig
from trainer.data.dataset import Superbatch
from trainer.job.errors import ConfigError
from trainer.parallel import evaluation, mesh
from trainer.tasks import make, mlp
from trainer.tasks.task import Keys, batch_gradients

OFF = {"shift": None, "crop": None, "flip": False, "cutout": None, "mixup": None}
OBJECTIVE = mlp.Objective("softmax_crossentropy", 10, 33.3, 78.6)
TASK = mlp.make(OBJECTIVE, (6, 5), [8], "he_normal")


def task_of(**options):
    return make.augmented(TASK, AugmentConfig(**{**OFF, **options}))


def examples_of(rows, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (rows, 6, 5), np.uint8)
    return {"image": images, "label": rng.integers(0, 10, rows).astype(np.uint8)}


def test_without_options_a_task_is_as_it_was():
    assert task_of() is TASK


def test_the_loss_of_a_mixture_is_the_mixture_of_losses():
    task, plain = task_of(mixup=1.0), TASK._replace(gradients=None)
    one, other, mask = examples_of(4), examples_of(4, 1), np.ones(4, np.uint8)
    keys = jax.random.split(jax.random.PRNGKey(5), 4)
    weights = task.init(jax.random.PRNGKey(0))
    mixing = [jax.random.split(key, 3)[2] for key in keys]
    mixed, shares = jax.jit(jax.vmap(task.mix))(one, other, jnp.stack(mixing))
    assert len(np.unique(shares)) == 4

    def expected(weights):
        logits = jax.vmap(lambda x: plain.fwd(x, weights, None))(mixed)
        first, second = (jax.vmap(plain.loss)(logits, each) for each in (mixed, other))
        return jnp.sum(shares * first + (1 - shares) * second)

    loss, gradients = jax.jit(jax.value_and_grad(expected))(weights)
    batch = Superbatch(one, mask, None, other)
    result = jax.jit(lambda w: batch_gradients(task, w, batch, Keys(None, keys)))(weights)
    np.testing.assert_allclose(result.sums[0], loss, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), result.gradients, gradients
    )


def test_an_evaluation_is_never_augmented():
    def fail(*_):
        raise AssertionError("augmented")

    dataset, weights = examples_of(7), TASK.init(jax.random.PRNGKey(0))
    results = []
    for task in (TASK, TASK._replace(augment=fail, mix=fail)):
        step = evaluation.make_eval_step(task, mesh.make_mesh(1))
        evaluate = evaluation.Evaluator(step, task.metric_names, dataset, mesh.make_mesh(1), 4)
        results.append(evaluate(weights))
    assert results[0].means == results[1].means


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shift": 5}, r"augment.shift=5: images have the shape \[6, 5\]: use a number below 5"),
        ({"crop": 9}, r"augment.crop=9: images have the shape \[6, 5\]: use a number below 5"),
        ({"cutout": 5}, r"augment.cutout=5: images have .*: use a number below 5"),
    ],
)
def test_a_number_that_does_not_fit_the_images_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        task_of(**options)


def test_a_task_without_images_is_named():
    task = TASK._replace(example={"x": jax.ShapeDtypeStruct((3,), np.float32)})
    message = r"augment.flip=true: the data set has x \[3\]: it needs `image`, \(rows, columns\)"
    with pytest.raises(ConfigError, match=message):
        make.augmented(task, AugmentConfig(**{**OFF, "flip": True}))


def run(folder, *options, **how):
    changes = ("augment.shift=2", "augment.cutout=5", "augment.mixup=0.4", "train.limit_steps=12")
    return train(folder, "+experiment=smoke", "run.dir=run", *changes, *options, **how)


def test_a_run_resumes_with_the_same_bits(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    assert run(whole, "train.steps_per_dispatch=5").returncode == 0
    stopped = run(parts, "train.steps_per_dispatch=5", stop=StopAfter(5))
    assert stopped.returncode == 75, stopped.stderr
    assert 0 < summary_of(parts)["steps"] < 24
    assert run(parts, "train.steps_per_dispatch=4").returncode == 0
    assert summary_of(parts)["weights_sha256"] == summary_of(whole)["weights_sha256"]
    assert points_of(parts) == points_of(whole)
    refused = run(parts, "augment.mixup=null")
    assert refused.returncode == 78
    assert "augment.mixup: 0.4 in the checkpoint, None in this configuration" in refused.stderr
