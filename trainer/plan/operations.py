"""The floating-point operations of a program's products, on each device.

XLA's own count (cost_analysis) has a loop's body once, however often it turns: gradients of parts
of a batch, layers of a scan.
"""

from __future__ import annotations

import math
from typing import Any

from trainer.optimizers.elementwise import programs_in


def operations(jaxpr: Any) -> int:
    """Return those of one step of a dispatch: its outermost loop, that over the steps, counts once.

    The others count as often as they turn, where that is known; of a branch, all sides count.
    """
    return _count(jaxpr, 1, in_loop=False)


def _count(jaxpr: Any, times: int, in_loop: bool) -> int:
    count = 0
    for equation in jaxpr.eqns:
        name, turns = equation.primitive.name, 1
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            count += times * _of_product(equation, math.prod(shape[dim] for dim in contracted))
        elif name == "conv_general_dilated":
            kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
            outputs = kernel[numbers.rhs_spec[0]]
            count += times * _of_product(equation, math.prod(kernel) // max(1, outputs))
        elif name == "scan" and in_loop:
            turns = equation.params["length"]
        inner = in_loop or name in ("scan", "while")
        for part in programs_in(equation.params.values()):
            count += _count(part, times * turns, inner)
    return count


def _of_product(equation: Any, summed: int) -> int:
    """Return a multiplication and an addition for each term of each result."""
    return 2 * math.prod(equation.outvars[0].aval.shape) * summed
