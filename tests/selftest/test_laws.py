"""The command laws says which laws hold, and finds a task that breaks one."""

import json

import pytest
from support.program import Trainer

from trainer.config.compose import compose_each
from trainer.job.errors import EXIT_COMPLETED, EXIT_CONFIG, EXIT_INTERNAL
from trainer.job.signals import StopRequest
from trainer.selftest.laws import LAWS, Laws
from trainer.tracking.terminal import Terminal

MODEL = """
import jax
import jax.numpy as jnp
import numpy as np

draws = np.random.default_rng()

def init(key, example, options):
    return {"w": jax.random.normal(key, (784, 10)) * jnp.float32(0.01)}

def fwd(example, weights, options):
    x = jnp.asarray(example["image"]).astype(jnp.float32).reshape(-1) * jnp.float32(1 / 255)
    return jnp.dot(x, weights["w"])LESS
"""
HOOK = """

def gradients(examples, weights, options, loss):
    x = jnp.asarray(examples["image"]).astype(jnp.float32).reshape(-1, 784) * jnp.float32(1 / 255)
    _, back, rows = jax.vjp(loss, x @ weights["w"], has_aux=True)
    (errors,) = back(jnp.float32(1))
    bounds = jnp.abs(x).sum(axis=1) * jnp.abs(errors).sum(axis=1)
    return {"w": x.T @ errors}, bounds, rows
"""
JOB = ("data=mnist_5k", "model=module", "model.module=model.py")


@pytest.fixture
def laws(tmp_path):
    """Run the command on a model; return the exit code and law -> whether it holds, detail."""
    command = Trainer(tmp_path)

    def run(text, *options):
        (tmp_path / "model.py").write_text(text)
        done = command("laws", "--json", *JOB, *options, timeout=600)
        findings = json.loads(done.stdout)["laws"] if done.stdout else []
        return (
            done.returncode,
            {one["law"]: (one["holds"], one["detail"]) for one in findings},
            done.stderr,
        )

    yield run
    command.close()


def test_all_hold(laws):
    options = ("optim=adamw", "optim.clip_norm=1", "ema.decay=0.9", "train.accumulate=2")
    options += ("train.log_gradient_norm=true", "parallel.virtual_shards=4")
    code, findings, _ = laws(MODEL.replace("LESS", ""), *options)
    assert code == EXIT_COMPLETED
    assert list(findings) == list(LAWS)
    assert all(holds for holds, _ in findings.values())


def test_a_model_that_draws_from_a_generator_of_its_own_is_found(laws):
    drawn = " * jnp.float32(draws.normal())"  # another number in each compiled program
    code, findings, _ = laws(MODEL.replace("LESS", drawn))
    assert code == EXIT_INTERNAL
    assert not findings["dispatches"][0]
    assert "K=6 and K=1 on 1 devices differ" in findings["dispatches"][1]


def test_a_mistake_in_the_module(laws):
    code, findings, stderr = laws(MODEL.replace("LESS", "[0]"))
    assert code == EXIT_CONFIG
    assert not findings
    assert "fwd returned shapes [[]]" in stderr


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("x.T @ errors", "x.T @ errors * 1.02"), "w differs by"),
        (("jnp.abs(errors).sum(axis=1)", "jnp.abs(errors).sum(axis=1) * 1e-5"), "the bound is"),
        (("", ""), None),
    ],
    ids=["gradients", "bounds", "right"],
)
def test_gradients_of_the_users_own_are_compared_with_those_of_jax(tmp_path, wrong, words):
    path = tmp_path / "hooked.py"
    path.write_text(MODEL.replace("LESS", "") + HOOK.replace(*wrong))
    (job,) = compose_each([(*JOB[:-1], f"model.module={path}")])
    laws = Laws(job.config, Terminal(quiet=True), StopRequest())
    if words is None:
        assert "of jax.grad" in laws.gradients()
    else:
        with pytest.raises(AssertionError, match=words):
            laws.gradients()


def test_gradients_of_the_mlp_in_bfloat16_are_those_of_jax():
    (job,) = compose_each([("+experiment=smoke", "model.precision=bfloat16")])
    assert "of jax.grad" in Laws(job.config, Terminal(quiet=True), StopRequest()).gradients()
