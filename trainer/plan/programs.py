"""Compile the programs of a job for devices that are not here; count what they need and send.

Nothing is run, and no array is made. The devices are simulated by the CPU, so the memory is what
XLA plans for a CPU: a GPU's kernels may need other temporary memory.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from trainer.config.schema import Config
from trainer.dashboard import norms
from trainer.data.dataset import Dataset, Examples, Needs, Superbatch, bytes_of_one
from trainer.optimizers import elementwise
from trainer.parallel import mesh as meshes
from trainer.parallel import sharding, step
from trainer.plan import scaling
from trainer.plan.devices import Layout
from trainer.plan.scaling import Machine
from trainer.plan.shapes import host_bytes
from trainer.plan.traffic import Traffic, operations, traffic
from trainer.train import programs, steps_per_dispatch

# Nothing is run, so the machine code need not be fast; the memory is the same.
QUICKLY: Any = {"xla_backend_optimization_level": 0}
Shape = jax.ShapeDtypeStruct
K = 2  # steps of the dispatch that is compiled: a loop of one step would be dissolved


class Memory(NamedTuple):
    """Bytes on each device."""

    weights: int
    optimizer: int  # its state, and the number of the step
    average: int  # of the weights: ema.decay
    batches: int  # of two dispatches: one is sent ahead
    splits: int  # to evaluate on: those that stay on the devices
    temporary: int  # activations, gradients, and what else a step needs for a moment
    evaluation: int  # the same of an evaluation, which comes between steps
    norms: int  # and of the norms of gradients after it, on one device of process 0
    initial: int  # the same of drawing the first weights, before there are batches
    measuring: int  # and of train.steps_per_dispatch=auto, which trains a copy of the state

    @property
    def state(self) -> int:
        """What a checkpoint has."""
        return self.weights + self.optimizer + self.average

    @property
    def total(self) -> int:
        """The most at any time, but for the copy that a checkpoint is written from."""
        passing = max(self.temporary, self.evaluation, self.norms)
        training = self.batches + self.splits + passing
        return self.state + max(training, self.initial, self.measuring)


class HostMemory(NamedTuple):
    """Bytes in each process, beside those of Python, JAX and CUDA."""

    data: int  # examples in memory; what is read from files takes none
    batches: int  # of three dispatches
    checkpoint: int  # a copy of the state, while it is written


class Counted(NamedTuple):
    """What the programs of a job need and do."""

    memory: Memory
    host: HostMemory
    traffic: Traffic  # of a step
    operations: int  # floating-point operations of a step's products, on each device
    steps: int  # of a dispatch
    rows: int  # examples of a step on each device
    shareable: bool  # whether devices could share the state: the optimizer works on parts
    predicted: scaling.Step | None


def count(config: Config, dataset: Dataset, layout: Layout, machine: Machine | None) -> Counted:
    """Compile the programs of a job and count.

    Args:
        config: of the job.
        dataset: its data, or a stand-in.
        layout: the processes and devices that it will have; this process has to simulate as many.
        machine: what predicts the seconds of a step; None: that is not done.

    Raises:
        ConfigError, DataError: as programs.make_programs.
    """
    exact = config.model.precision == "float32"
    if config.model.precision is not None:  # the arrays are the same, and any CPU has this one
        model = dataclasses.replace(config.model, precision="float32")
        config = dataclasses.replace(config, model=model)
    parallel = config.parallel
    mesh = meshes.make_mesh(layout.all_devices, parallel.mesh.replica, parallel.mesh.shard)
    made = programs.make_programs(config, dataset, mesh)
    key = Shape((2,), np.uint32)
    begin = partial(step.new_state, made.task, made.update)
    template = jax.eval_shape(begin, key)
    shardings = sharding.of_state(template, mesh, parallel.shard_state)
    state = _abstract(template, shardings)
    initial: Any = jax.jit(begin, out_shardings=shardings).lower(key).compile(QUICKLY)
    batch = config.train.global_batch_size
    inputs = partial(_inputs, mesh, dataset.train, batch, made.task.needs)

    traced = made.train_step.trace(state, inputs(K))
    products = operations(traced.jaxpr.jaxpr)
    compiled = traced.lower().compile(QUICKLY)
    sent = traffic(compiled.as_text())
    splits, evaluation = _evaluation(config, dataset, made, state.weights, mesh)
    of_norms = _norms(config, dataset.train, made, state.weights, mesh)
    average = state.ema if config.ema.evaluate and parallel.shard_state == "optimizer" else None
    if _bytes_here(average) < _bytes(average):  # it is evaluated whole
        evaluation += _bytes(template.weights)
        of_norms += _bytes(template.weights)

    rows, example = batch // mesh.size, bytes_of_one(dataset.train)
    predicted = None
    if machine is not None:
        weights = _bytes(template.weights)
        seconds = 0.0
        for one in sent.items:
            places = _places(one.group, layout)
            seconds += one.times * scaling.collective(one.kind, one.bytes, *places, machine)
        # Like the averages of the weights, the update is shared where its state is.
        updated = _bytes_here(state.optim_state) / max(1, _bytes(state.optim_state))
        rate = machine.float32 if exact else machine.flops
        computing = scaling.compute(products, weights, machine, rate, updated)
        pieces = max(sent.collectives.values(), default=1)
        waiting = scaling.exposed(seconds, pieces, computing)
        predicted = scaling.step(computing, waiting, mesh.size, rows, example, machine)

    k, local = config.train.steps_per_dispatch, batch // layout.processes * example
    measuring = 0
    if not isinstance(k, int):  # as the run will choose it, if steps take as long as predicted
        measuring = _bytes_here(state) + _bytes_here(inputs(1)) + _temporary(compiled)
        took = predicted.seconds if predicted is not None else 1e-3
        k = steps_per_dispatch.best(took, made.plan, local, gpu=layout.gpus > 0)
    memory = Memory(
        _bytes_here(state.weights),
        _bytes_here((state.optim_state, state.step)),
        _bytes_here(state.ema),
        2 * _bytes_here(inputs(k)),
        splits,
        _temporary(compiled),
        evaluation,
        of_norms,
        int(initial.memory_analysis().temp_size_in_bytes),
        measuring,
    )
    leaves = jax.tree.leaves(state)
    checkpoint = sum(min(_bytes(x), layout.devices * _bytes_here(x)) for x in leaves)
    host = HostMemory(host_bytes(dataset), 3 * k * local, checkpoint)
    shareable = elementwise.first_mixing(made.update.optimizer, template.weights) is None
    return Counted(memory, host, sent, products, k, rows, shareable, predicted)


def _evaluation(
    config: Config, dataset: Dataset, made: programs.Programs, weights: Any, mesh: Mesh
) -> tuple[int, int]:
    """Return the bytes of the splits that stay on a device, and what evaluating needs besides."""
    kept, needed = 0, 0
    evaluators = programs.evaluators(config, dataset, made.task, made.eval_step, mesh)
    for split, evaluator in evaluators.items():
        shapes = _batch(dataset.splits[split], *evaluator.shape, Needs())
        batch = _abstract(shapes, meshes.batched(mesh))
        sent = _bytes_here(batch)
        also = _temporary(made.eval_step.lower(weights, batch).compile(QUICKLY))
        kept += sent if evaluator.keeps else 0
        needed = max(needed, also + (0 if evaluator.keeps else sent))
    return kept, needed


def _norms(
    config: Config, examples: Examples, made: programs.Programs, weights: Any, mesh: Mesh
) -> int:
    """Return the bytes that the dashboard needs on a device to measure the norms of a run."""
    if _bytes_here(weights) < _bytes(weights):  # the host measures them, one gathered at a time
        return max(_bytes([leaf]) for leaf in jax.tree.leaves(weights))
    rows = min(config.train.global_batch_size, norms.MOST_EXAMPLES)
    shapes = jax.tree.map(lambda x: Shape(x.shape, x.dtype), weights)
    one = _batch(examples, 1, rows, made.task.needs)
    batch = jax.tree.map(lambda x: Shape(x.shape[1:], x.dtype), one)
    measure = norms.make(made.task, programs.rows_at_once(config, mesh), config.model.remat)
    return _temporary(jax.jit(measure).lower(shapes, batch).compile(QUICKLY))


def _temporary(compiled: Any) -> int:
    """Return what XLA plans for a program besides its arguments, and results that replace them."""
    plan = compiled.memory_analysis()
    results = plan.output_size_in_bytes - plan.alias_size_in_bytes
    return int(plan.temp_size_in_bytes + results)


def _places(group: tuple[int, ...], layout: Layout) -> tuple[int, int]:
    """Return how many devices of each node take part in a collective, and how many nodes."""
    nodes = len({device // layout.devices_per_node for device in group})
    return len(group) // nodes, nodes


def _inputs(
    mesh: Mesh, examples: Examples, batch_size: int, needs: Needs, k: int
) -> step.DispatchInputs:
    """Return the inputs of K steps, without arrays: as feed.inputs makes them."""
    lrs, steps, seeds = (Shape((k,), dtype) for dtype in ("f4", "i4", "u4"))
    sharded = (_batch(examples, k, batch_size, needs), Shape((k, mesh.size), "u1"))
    values = (lrs, steps, seeds if needs.indices else None)
    return step.DispatchInputs(
        *_abstract(sharded, meshes.batched(mesh)), *_abstract(values, meshes.replicated(mesh))
    )


def _batch(examples: Examples, k: int, batch_size: int, needs: Needs) -> Superbatch:
    shape = (k, batch_size)
    fields = {n: Shape((*shape, *array.shape[1:]), array.dtype) for n, array in examples.items()}
    index = Shape(shape, np.int32) if needs.indices else None
    return Superbatch(fields, Shape(shape, np.uint8), index, fields if needs.other else None)


def _abstract(tree: Any, shardings: Any) -> Any:
    """Return the shapes with shardings: a tree of these, or one for all."""
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(lambda x, s: Shape(x.shape, x.dtype, sharding=s), tree, shardings)


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _bytes_here(tree: Any) -> int:
    """Return the bytes that one device holds."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
