"""The laws of training, which `python -m trainer laws` checks on a task."""

import dataclasses
import tempfile
from collections.abc import Callable
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from trainer.checkpoint.store import Best, Checkpoints
from trainer.config.schema import Config
from trainer.data.dataset import first, size
from trainer.data.report import Report
from trainer.data.stream import Superbatches
from trainer.distributed.connect import configure
from trainer.job.signals import StopRequest
from trainer.parallel import mesh as meshes
from trainer.parallel.evaluation import Evaluator
from trainer.parallel.step import DispatchInputs, TrainState, TrainStep, init_state
from trainer.plan.traffic import traffic
from trainer.sources import load as data_sets
from trainer.tasks.task import batch_gradients, named_leaves
from trainer.tracking.terminal import Terminal
from trainer.train import feed, programs

# Each is a method of Laws; the cheapest first.
LAWS = ("dispatches", "gradients", "devices", "resume", "evaluation", "all-reduce", "shards")
DEVICES, SHARDS, BATCH, STEPS = 4, 4, 16, 6
SHORT = 3  # examples that the last batch lacks
TESTED = 50  # test examples
CLOSE = 1e-6  # of a step on other devices, relative to weights above 1
# Of the task's own gradients, relative to the largest in an array: in bfloat16 they are not closer.
NEAR = 0.01


class Laws:
    """The laws, each a function that returns a detail or raises AssertionError with one."""

    def __init__(self, config: Config, terminal: Terminal, stop: StopRequest) -> None:
        """Load the data and keep some examples of it."""
        configure(config.run, None, terminal.warn)
        parts = DEVICES * config.train.accumulate
        self._batch = -(-BATCH // parts) * parts
        short = {"global_batch_size": self._batch, "steps_per_dispatch": 1, "epochs": 1}
        self._config = _changed(config, "train", short)

        poll = partial(stop.check, "during the download of the data set")
        whole = data_sets.load(config.data, Report(terminal.download, poll, terminal.warn))
        train, test = first(whole.train, STEPS * self._batch - SHORT), first(whole.test, TESTED)
        self._dataset = whole._replace(train=train, test=test, validation=None, mixture=None)
        # Kept, and with them what jax compiles for each K: most laws need the same few.
        self._programs = cache(self._make_programs)

    def dispatches(self) -> str:
        """K steps in one dispatch are K dispatches of one step, bit for bit."""
        for devices in (1, DEVICES):
            one, all_ = (self._train(devices, k) for k in (1, STEPS))
            what = f"K={STEPS} and K=1 on {devices} devices"
            _assert_equal(one, all_, what, ": does fwd draw random numbers without its key?")
        return f"K=1 and K={STEPS} have the same bits on 1 and {DEVICES} devices"

    def gradients(self) -> str:
        """The task's own gradients are those of jax.grad, and no larger than their bounds say."""
        task = self._programs(1, None)[1].task
        if task.gradients is None:
            return "jax.grad computes them"
        batch = jax.tree.map(lambda x: x[0], self._batches(1)[0])
        own, right = (
            jax.device_get(jax.jit(partial(batch_gradients, one))(self._initial.weights, batch))
            for one in (task, task._replace(gradients=None))
        )
        theirs = named_leaves(right.gradients)
        for name, leaf in named_leaves(own.gradients).items():
            largest, off = np.max(np.abs(theirs[name])), np.max(np.abs(leaf - theirs[name]))
            text = f"{name} differs by {off:.1e}, the largest is {largest:.1e}"
            assert off <= NEAR * largest, text
            text = f"{name} has a gradient of {largest:.1e}, the bound is {own.bound:.1e}"
            assert largest <= (1 + NEAR) * own.bound, text
        return f"the task's own are those of jax.grad, within {NEAR:.0%} of the largest"

    def devices(self) -> str:
        """One step on N devices is one step on one device."""
        # From one state each time: over several steps training would amplify the rounding.
        worst, state = 0.0, None
        for begin in range(0, STEPS, 2):
            one, *others = (self._train(n, 1, 1, state=state, first=begin) for n in (1, 2, DEVICES))
            worst = max(worst, *(_difference(one.weights, other.weights) for other in others))
            state = self._train(1, 1, 2, state=state, first=begin)
        assert worst <= CLOSE, f"the weights differ by {worst:.1e} after one step: at most {CLOSE}"
        return f"the weights differ by at most {worst:.1e} after one step"

    def resume(self) -> str:
        """A checkpoint in the middle changes nothing."""
        unbroken, half = self._train(1, 1), STEPS // 2
        warnings, best = list[str](), Best("loss", largest=False)
        options: Any = {"keep_last": 1, "keep_best": 0, "best": best, "warn": warnings.append}
        with (
            tempfile.TemporaryDirectory(prefix="trainer-laws-") as folder,
            Checkpoints(Path(folder), **options) as checkpoints,
        ):
            state = self._train(1, 1, half)
            checkpoints.save(half, state, {})
            restored = checkpoints.restore(state)
        assert restored is not None, f"the checkpoint was not restored: {warnings}"
        resumed = self._train(1, 1, half, state=restored.state, first=half)
        _assert_equal(unbroken, resumed, "the interrupted and the unbroken training")
        return f"{half} steps, a checkpoint and {STEPS - half} steps are {STEPS} steps"

    def evaluation(self) -> str:
        """Every test example counts once."""
        state, results = self._train(1, 1, 1), []
        test, count = self._dataset.test, size(self._dataset.test)
        for devices, batch in ((1, TESTED), (1, 7), (DEVICES, 16)):
            mesh, made = self._programs(devices, None)
            evaluate = Evaluator(made.eval_step, made.task.metric_names, test, mesh, batch)
            result = evaluate(meshes.place(meshes.replicated(mesh), state.weights))
            assert result.examples == count, f"{result.examples} examples counted, not {count}"
            results.append(result.means)
        for means in results[1:]:
            for name, value in means.items():
                off = abs(value - results[0][name]) / max(1.0, abs(value))
                assert off <= 1e-5, f"{name} differs by {off:.1e} with another batch size"
        return f"the same means for three batch sizes and 1 and {DEVICES} devices"

    def all_reduce(self) -> str:
        """A step on several devices has one all-reduce."""
        program, state, inputs = self._program(DEVICES, 1, None, None)
        collectives = traffic(program.lower(state, inputs(0)).compile().as_text()).collectives
        assert collectives.get("all-reduce") == 1, f"the compiled step has {collectives}"
        return "the compiled step has one"

    def shards(self) -> str:
        """With virtual shards, the number of devices changes no bit."""
        one = self._train(1, 1, shards=SHARDS)
        for devices, k in ((2, 1), (DEVICES, STEPS)):
            what = f"parallel.virtual_shards={SHARDS} on 1 and {devices} devices"
            _assert_equal(one, self._train(devices, k, shards=SHARDS), what)
        return f"parallel.virtual_shards={SHARDS}: the same bits on 1, 2 and {DEVICES} devices"

    def _make_programs(self, devices: int, shards: int | None) -> tuple[Mesh, programs.Programs]:
        """Return so many devices and what is compiled for them, with so many virtual shards."""
        mesh = meshes.make_mesh(devices)
        config = _changed(self._config, "parallel", {"virtual_shards": shards})
        return mesh, programs.make_programs(config, self._dataset, mesh)

    @cached_property
    def _initial(self) -> TrainState:
        """The state before the first step, on the host."""
        mesh, made = self._programs(1, None)
        key = jax.random.PRNGKey(self._config.run.seed)
        state: TrainState = jax.device_get(init_state(made.task, made.update, key, mesh))
        return state

    def _batches(self, k: int) -> Superbatches:
        """Return the batches of the steps, K a dispatch."""
        _, made = self._programs(1, None)
        plan, rows = made.plan._replace(steps_per_dispatch=k), slice(0, self._batch)
        return programs.superbatches(self._config, self._dataset, made.task, rows, 0, plan)

    def _program(
        self, devices: int, k: int, shards: int | None, state: TrainState | None
    ) -> tuple[TrainStep, TrainState, Callable[[int], DispatchInputs]]:
        """Return the program of K steps, a state (None: the initial one), and step -> inputs."""
        mesh, made = self._programs(devices, shards)
        seed, batches = self._config.run.seed, self._batches(k)
        placed = meshes.place(meshes.replicated(mesh), self._initial if state is None else state)

        def inputs(step: int) -> DispatchInputs:
            sent = feed.send(mesh, made.schedule_of(1), batches[step // k], step, seed)
            return feed.inputs(mesh, sent)

        return made.train_step, placed, inputs

    def _train(
        self,
        devices: int,
        k: int,
        steps: int = STEPS,
        *,
        shards: int | None = None,
        state: TrainState | None = None,
        first: int = 0,
    ) -> TrainState:
        """Do some steps, K a dispatch; return the state on the host."""
        program, placed, inputs = self._program(devices, k, shards, state)
        for step in range(first, first + steps, k):
            placed, _ = program(placed, inputs(step))
        result: TrainState = jax.device_get(placed)
        return result


def _changed(config: Config, group: str, changes: dict[str, Any]) -> Config:
    """Return the options with some of a group changed, whatever the rules for them."""
    changed = dataclasses.replace(getattr(config, group), **changes)
    return dataclasses.replace(config, **{group: changed})


def _assert_equal(one: Any, other: Any, what: str, hint: str = "") -> None:
    theirs = named_leaves(other)
    wrong = [
        name for name, leaf in named_leaves(one).items() if leaf.tobytes() != theirs[name].tobytes()
    ]
    assert not wrong, f"{what} differ in {len(wrong)} arrays, such as {wrong[0]}{hint}"


def _difference(one: Any, other: Any) -> float:
    """Return the largest difference between two pytrees, relative to what is above 1."""

    def largest(a: Any, b: Any) -> float:
        return float(np.max(np.abs(a.astype(np.float64) - b) / np.maximum(1, np.abs(b))))

    return max(jax.tree.leaves(jax.tree.map(largest, one, other)))
