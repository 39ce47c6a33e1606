"""What is learnt: a Task is a few pure functions of ONE example.

The trainer maps them over the examples of a batch, leaves out the padding, sums over the devices
and divides once. Nothing else in it knows what is trained.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trainer.data.dataset import Examples, Needs, Superbatch

Weights = Any  # a pytree of floating-point arrays
Example = dict[str, Any]  # field -> array, of one example
Output = Any  # a pytree of arrays
Named = dict[str, jax.Array]
Key = jax.Array | None  # of random numbers; None: draw none
Rows = tuple[jax.Array, ...]  # (rows,) each, float32: the loss, each metric, 1 for an example
Differentiated = tuple[Weights, jax.Array, Rows]  # see Task.gradients
SummedLoss = Callable[[Output], tuple[jax.Array, Rows]]  # outputs (rows, ...) -> (), float32; rows
AUGMENTATION = 2**32 - 1  # no example has this number


class BatchGradients(NamedTuple):
    """Gradients and metrics of a batch, all summed: those of its parts add up to the whole."""

    gradients: Weights  # of the summed loss, float32
    bound: jax.Array  # (), float32: no element of the gradients is larger, but for rounding
    sums: tuple[jax.Array, ...]  # () each, float32: the loss, each metric, the number of examples


class Keys(NamedTuple):
    """A key for each example of a batch, (rows,); None: draw no random numbers."""

    fwd: Any = None
    augment: Any = None


NO_KEYS = Keys()


class Task(NamedTuple):
    """What is learnt."""

    init: Callable[[jax.Array], Weights]  # key -> weights
    fwd: Callable[[Example, Weights, Key], Output]
    loss: Callable[[Output, Example], jax.Array]  # -> (), float32
    metrics: Callable[[Output, Example], Named]  # -> () each: reported as means over examples
    metric_names: tuple[str, ...]
    inputs: tuple[str, ...]  # the fields of an example that fwd reads, all that predicting needs
    example: dict[str, jax.ShapeDtypeStruct]  # of one example
    outputs: Callable[[Output], Named]  # what `predict` and an exported model give
    # Small arrays for pictures and tables; of a classifier the predicted `class`, () int32, and
    # its `confidence`, (). None: nothing.
    prediction: Callable[[Output], Named] | None = None
    # Reads a file for `predict`: fields (N, ...). None: `predict` reads arrays, and pictures.
    read: Callable[[Path], Examples] | None = None
    is_random: bool = False  # whether fwd draws random numbers in training, as dropout does
    # Changes an example at random in training, before fwd; its fields, shapes and dtypes stay.
    augment: Callable[[Example, jax.Array], Example] | None = None
    # Mixes two examples after that. Returns what fwd gets, and the share of the first example in
    # the loss, (); the second one has the rest.
    mix: Callable[[Example, Example, jax.Array], tuple[Example, jax.Array]] | None = None
    # Two hooks that make training faster and change no result. `gradients` differentiates the
    # summed loss of examples (rows, ...). It returns the gradients, bounds (rows,), float32, and
    # what the loss gave second. But for rounding, no gradient is larger than the sum of the bounds.
    gradients: Callable[[Weights, Example, SummedLoss], Differentiated] | None = None
    # Bring the weights to the layout in which a CPU trains fastest, and back.
    layout: tuple[Callable[[Weights], Weights], Callable[[Weights], Weights]] | None = None
    # Whether a step has the same bits where XLA knows that the loop over K steps turns only once:
    # then the loop is a plain one.
    counted: bool = False
    # Takes numpy weights, gives those of the first layer as filters (units, rows, cols) to draw.
    filters: Callable[[Weights], Any] | None = None

    @property
    def needs(self) -> Needs:
        """What training needs of the batches besides the examples."""
        mixes = self.mix is not None
        return Needs(self.is_random or self.augment is not None or mixes, mixes)

    @property
    def shapes(self) -> Weights:
        """Shapes and dtypes of the weights."""
        return jax.eval_shape(self.init, jax.ShapeDtypeStruct((2,), "uint32"))


def keys_of(task: Task, seed: jax.Array | None, step: jax.Array, batch: Superbatch) -> Keys:
    """Return the keys of each example in a step, where the task draws random numbers.

    They depend on the seed, the step and the example, and on nothing else: neither on restarts nor
    on which device computes the example.
    """
    if seed is None or not task.needs.indices:
        return NO_KEYS

    def of_examples(key: jax.Array) -> jax.Array:
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.asarray(batch.index))

    of_step = jax.random.fold_in(jax.random.PRNGKey(seed), step)
    augments = task.augment is not None or task.mix is not None
    return Keys(
        of_examples(of_step) if task.is_random else None,
        of_examples(jax.random.fold_in(of_step, np.uint32(AUGMENTATION))) if augments else None,
    )


def apply(task: Task, weights: Weights, examples: Example, keys: Any = None) -> Output:
    """Return the outputs for examples (rows, ...), stacked along the first dim."""
    over_keys = None if keys is None else 0
    return jax.vmap(task.fwd, in_axes=(0, None, over_keys))(examples, weights, keys)


def outputs_of_one(task: Task, weights: Weights, example: Example) -> Named:
    """Return the outputs for ONE example by path; only the fields in task.inputs are needed."""
    # fwd may look at others, as long as its output does not depend on them.
    blank = {name: jnp.zeros(x.shape, x.dtype) for name, x in task.example.items()}
    return named_leaves(task.outputs(task.fwd({**blank, **example}, weights, None)))


def losses_and_metrics(task: Task, outputs: Output, examples: Example) -> tuple[jax.Array, ...]:
    """Return the loss and the metrics of each example, (rows,) each, float32."""

    def of_one(output: Output, example: Example) -> tuple[jax.Array, ...]:
        metrics = task.metrics(output, example)
        values = (task.loss(output, example), *(metrics[name] for name in task.metric_names))
        return tuple(jnp.asarray(value).astype(jnp.float32) for value in values)

    return jax.vmap(of_one)(outputs, examples)


def batch_gradients(
    task: Task, weights: Weights, batch: Superbatch, keys: Keys = NO_KEYS
) -> BatchGradients:
    """Differentiate the summed loss of a batch: fields (rows, ...), mask (rows,).

    Rows whose mask is 0 fill up a short batch: they count as no example and have no gradient.
    Without keys, nothing is augmented.
    """
    examples = jax.tree.map(jnp.asarray, batch.examples)
    augmented, other, share = _augmented(task, examples, batch.other, keys.augment)

    def summed_loss(outputs: Output) -> tuple[jax.Array, Rows]:
        rows = losses_and_metrics(task, outputs, augmented)
        if other is not None:
            pairs = zip(rows, losses_and_metrics(task, outputs, other), strict=True)
            rows = tuple(share * row + (1 - share) * of_other for row, of_other in pairs)
        valid = jnp.asarray(batch.mask).astype(jnp.float32)
        rows = (*(row * valid for row in rows), valid)
        return jnp.sum(rows[0]), rows

    if task.gradients is not None:
        gradients, bounds, rows = task.gradients(weights, augmented, summed_loss)
        bound, *sums = _sum_over_rows(bounds, *rows)
        return BatchGradients(_float32(gradients), bound, tuple(sums))

    def loss(weights: Weights) -> tuple[jax.Array, Rows]:
        return summed_loss(apply(task, weights, augmented, keys.fwd))

    gradients, rows = jax.grad(loss, has_aux=True)(weights)
    gradients = _float32(gradients)
    sizes = [jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(gradients)]
    return BatchGradients(gradients, sum(sizes[1:], sizes[0]), _sum_over_rows(*rows))


def _float32(tree: Weights) -> Weights:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)


def _augmented(
    task: Task, examples: Example, other: Example | None, keys: Any
) -> tuple[Example, Example | None, Any]:
    """Return examples (rows, ...) as they are trained on.

    Where they are mixed, the others, and the share of each example in its loss, (rows,).
    """
    if keys is None:
        return examples, None, None
    own, others, mixing = jnp.moveaxis(jax.vmap(partial(jax.random.split, num=3))(keys), 1, 0)
    if task.augment is not None:
        examples = jax.vmap(task.augment)(examples, own)
    if task.mix is None:
        return examples, None, None
    other = jax.tree.map(jnp.asarray, other)
    if task.augment is not None:
        other = jax.vmap(task.augment)(other, others)
    mixed, share = jax.vmap(task.mix)(examples, other, mixing)
    return mixed, other, share


def _sum_over_rows(*vectors: jax.Array) -> tuple[jax.Array, ...]:
    """Add up vectors (rows,), float32, in one reduction: a GPU would start a kernel for each."""

    def add(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return tuple(x + y for x, y in zip(a, b, strict=True))

    zeros = (jnp.float32(0),) * len(vectors)
    return tuple(lax.reduce(vectors, zeros, add, (0,)))


def named_leaves(tree: Any) -> dict[str, Any]:
    """Return the leaves of a pytree by their paths, such as `0/kernel` or `encoder/w`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
