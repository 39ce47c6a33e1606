"""The options for a GPU's compiler, as far as they show without one."""

import jax
import numpy as np
import pytest
from support import in_process

from trainer.parallel import compiler
from trainer.tasks import mlp


def test_a_cpu_needs_no_options():
    assert compiler.xla_options("cpu", deterministic=True) == {}


def test_one_gpu_alone_has_several_steps_in_the_loop():
    assert compiler.step_options("cpu", 8, None) == compiler.CPU_STEP
    assert compiler.step_options("gpu", 1, None) == compiler.GPU_STEP
    assert compiler.step_options("gpu", 8, None) == compiler.GPU_STEP._replace(unroll=1)
    assert compiler.step_options("gpu", 1, 8) == compiler.GPU_STEP._replace(unroll=1)


@pytest.mark.parametrize("deterministic", [False, True])
def test_xla_knows_every_option_for_a_gpu_and_its_value(deterministic):
    options = compiler.xla_options("gpu", deterministic, overlap=True)
    assert ("xla_gpu_deterministic_ops" in options) == deterministic
    lowered = jax.jit(lambda x: x + x).lower(np.float32(1))
    lowered.compile(compiler_options=options)  # raises for one that is not known
    for option in options:
        with pytest.raises(jax.errors.JaxRuntimeError, match=option):
            lowered.compile(compiler_options={option: "nonsense"})


@pytest.mark.parametrize(
    ("precision", "said"),
    [
        ("float32", "precision = [HIGHEST, HIGHEST]"),
        ("tf32", "lhs_precision_type = tf32"),
        ("bfloat16", "lhs_precision_type = bf16"),
    ],
)
def test_a_gpu_is_told_how_to_multiply(precision, said):
    objective = mlp.Objective("softmax_crossentropy", 2, 0.0, 1.0, precision)
    weights = mlp.make(objective, [4], [3], "he_normal").init(jax.random.PRNGKey(0))

    def fwd(x):
        return mlp.activations(x, weights, precision)[-1]

    text = jax.jit(fwd).trace(np.zeros(4, np.float32)).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count(said) == 2


def test_a_cpu_refuses_what_it_cannot_do(tmp_path):
    done = in_process.train(tmp_path, "+experiment=smoke", "model.precision=tf32")
    assert done.returncode == 78
    assert "model.precision=tf32: a CPU multiplies float32 and bfloat16 only" in done.stderr


@pytest.mark.parametrize(
    ("flag", "said"), [("avx512_bf16", None), ("bf16", None), ("avx512f", "this CPU has no instru")]
)
def test_bfloat16_needs_instructions_of_the_cpu(tmp_path, flag, said):
    (tmp_path / "cpuinfo").write_text(f"model name : x\nflags : fpu {flag} sse\n")
    why = compiler.cannot_multiply("cpu", "bfloat16", tmp_path / "cpuinfo")
    assert why is None if said is None else why.startswith(said)
