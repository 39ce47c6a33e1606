"""Whether an optimizer treats each element of the weights by itself, as SGD and Adam do."""

from collections.abc import Iterator
from typing import Any

import jax

from trainer.optimizers.optimizer import Optimizer

# Primitives of jax whose result at an element depends on the arguments at this element alone.
PRIMITIVES = {
    *("abs", "add", "add_any", "div", "max", "min", "mul", "neg", "rem", "sign", "sub"),
    *("cbrt", "ceil", "cos", "erf", "exp", "exp2", "expm1", "floor", "integer_pow", "log", "log1p"),
    *("logistic", "pow", "round", "rsqrt", "sin", "sqrt", "square", "tanh"),
    *("and", "clamp", "eq", "ge", "gt", "is_finite", "le", "lt", "ne", "not", "or", "select_n"),
    *("xor", "convert_element_type", "copy", "copy_p", "optimization_barrier", "reduce_precision"),
    "stop_gradient",
}


def first_mixing(optimizer: Optimizer, weights: Any) -> str | None:
    """Return the first operation of a step that mixes elements of an array; None if none does.

    The step is traced for weights of these shapes and dtypes, and not run. Arithmetic on scalars,
    such as a count of steps, mixes nothing.
    """
    state = jax.eval_shape(optimizer.init, weights)
    lr = jax.ShapeDtypeStruct((), "float32")
    return next(_mixing(jax.make_jaxpr(optimizer.step)(weights, state, weights, lr).jaxpr), None)


def _mixing(jaxpr: Any) -> Iterator[str]:
    for equation in jaxpr.eqns:
        arrays = [var.aval for var in (*equation.invars, *equation.outvars)]
        if all(getattr(aval, "ndim", 0) == 0 for aval in arrays):
            continue
        name, programs = equation.primitive.name, [*programs_in(equation.params.values())]
        for program in programs:
            yield from _mixing(program)
        spreads = name == "broadcast_in_dim" and arrays[0].ndim == 0  # a scalar to all elements
        if not (programs or spreads or name in PRIMITIVES):
            yield str(name)


def programs_in(values: Any) -> Iterator[Any]:
    """Yield the programs among the parameters of an equation: bodies and branches."""
    for value in values:
        program = getattr(value, "jaxpr", value)  # newer versions of jax do not export the types
        if hasattr(program, "eqns"):
            yield program
        elif isinstance(value, tuple | list):
            yield from programs_in(value)
