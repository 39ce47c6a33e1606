"""model.remat: less memory for activations, which are computed again for the gradients."""

from collections.abc import Mapping
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import jax
from jax import lax
from jax.extend import core

from trainer.parallel.sharding import Sharing, gathered_leaf
from trainer.tasks.task import Example, Key, Output, Task, Weights


def in_parts(task: Task, parts: int | None, how: Sharing | None = None) -> Task:
    """Return a task whose fwd is cut into parts, for training; None: as it is.

    Between the passes forward and backward, only what passes from one part to the next is kept. A
    part is computed again when its gradients are due. The loops and jitted functions of jax are not
    cut.

    With `how`, fwd takes this device's parts of the weights: each part gathers those that it reads,
    and again when it is computed again. Their gradients are added up over the devices of the axis.
    """
    if parts is None:
        return task

    def fwd(example: Example, weights: Weights, key: Key = None) -> Output:
        shapes = weights if how is None else task.shapes
        whole, shape = jax.make_jaxpr(task.fwd, return_shape=True)(example, shapes, key)
        readers = {}
        if how is not None:
            variables = whole.jaxpr.invars[len(jax.tree.leaves(example)) :]
            for variable, dim in zip(variables, jax.tree.leaves(how.dims), strict=False):
                readers[variable] = partial(gathered_leaf, how.axis, how.reduce_dtype, dim)
        outputs = _run(whole, jax.tree.leaves((example, weights, key)), readers, parts)
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    return task._replace(fwd=fwd, gradients=None, counted=False)


def _run(whole: Any, arguments: list[Any], readers: Mapping[Any, Any], parts: int) -> list[Any]:
    """Evaluate a program in parts; the last one is not computed again: its gradients come first.

    `readers` has functions of some variables, which a part that uses a variable applies to it.
    """
    jaxpr = whole.jaxpr
    values = dict(zip(jaxpr.constvars, whole.consts, strict=True))
    values |= zip(jaxpr.invars, arguments, strict=True)
    cuts = [0, *_cuts(jaxpr, parts), len(jaxpr.eqns)]
    for first, last in pairwise(cuts):
        part = jaxpr.eqns[first:last]
        made = {var for equation in part for var in equation.outvars}
        used = _variables(var for equation in part for var in equation.invars)
        ins = [var for var in used if var not in made]
        later = (var for equation in jaxpr.eqns[last:] for var in equation.invars)
        outs = [var for var in _variables([*later, *jaxpr.outvars]) if var in made]
        program = jaxpr.replace(
            constvars=[],
            invars=ins,
            outvars=outs,
            eqns=part,
            debug_info=jaxpr.debug_info.with_unknown_names(),
        )
        function = _reading(
            core.jaxpr_as_fun(whole.replace(jaxpr=program, consts=[])), ins, readers
        )
        if last < len(jaxpr.eqns):
            function = jax.checkpoint(function)
        values |= zip(outs, function(*(values[var] for var in ins)), strict=True)
    return [var.val if _is_literal(var) else values[var] for var in jaxpr.outvars]


def _reading(function: Any, ins: list[Any], readers: Mapping[Any, Any]) -> Any:
    """Return the function of some variables, which reads those first that have a reader."""

    def apply(*values: Any) -> Any:
        if any(var in readers for var in ins):
            # What the part before it made and what is read here become ready together: else XLA
            # could read for all parts first, and keep it.
            values = lax.optimization_barrier(values)
        pairs = zip(ins, values, strict=True)
        return function(*(readers[var](x) if var in readers else x for var, x in pairs))

    return apply


def _cuts(jaxpr: Any, parts: int) -> list[int]:
    """Return before which equations to cut: near equal parts, where the fewest bytes pass."""
    last_use = {var: i for i, eqn in enumerate(jaxpr.eqns) for var in _variables(eqn.invars)}
    last_use |= dict.fromkeys(_variables(jaxpr.outvars), len(jaxpr.eqns))
    passing, made = [0] * (len(jaxpr.eqns) + 1), []
    for i, equation in enumerate(jaxpr.eqns):
        for var in equation.outvars:
            for cut in range(i + 1, last_use.get(var, i) + 1):
                passing[cut] += _bytes(var)
        made.append(sum(map(_bytes, equation.outvars)))
    before = [0, *accumulate(made)]
    size = before[-1] / parts
    cuts = []
    for number in range(1, parts):
        near = [i for i in range(1, len(jaxpr.eqns)) if abs(before[i] - number * size) <= size / 2]
        if near:
            cuts.append(min(near, key=lambda i: (passing[i], abs(before[i] - number * size))))
    return sorted(set(cuts))


def _variables(atoms: Any) -> list[Any]:
    return list(dict.fromkeys(atom for atom in atoms if not _is_literal(atom)))


def _is_literal(atom: Any) -> bool:
    return hasattr(atom, "val")


def _bytes(var: Any) -> int:
    return int(var.aval.size * var.aval.dtype.itemsize)
