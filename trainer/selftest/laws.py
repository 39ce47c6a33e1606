"""`python -m trainer laws`: check on the user's task what the trainer promises of every training.

In one process, on four simulated devices of the CPU, in about a minute. `selftest` goes further: it
kills whole runs, in several processes.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.commands import arguments as command_line
from trainer.config.compose import compose_each
from trainer.job.errors import EXIT_COMPLETED, EXIT_INTERNAL, TrainerError, first_line
from trainer.job.files import to_json
from trainer.job.signals import StopRequest
from trainer.job.stdout import show, table
from trainer.tracking.terminal import Terminal

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from trainer.config.schema import Config
    from trainer.data.stream import Superbatches
    from trainer.parallel.step import DispatchInputs, TrainState, TrainStep
    from trainer.tasks.task import Task
    from trainer.train.programs import Programs

DESCRIPTION = """\
Checks the laws of training on a task, a few steps of it on four simulated devices of the CPU:

  gradients    the task's own `gradients` are those of jax.grad, and its bounds hold
  devices      a step on 2 and on 4 devices is the step on one, but for rounding
  dispatches   K steps in one dispatch are K dispatches of one step, bit for bit
  resume       6 steps are 3 steps, a checkpoint, and 3 steps from what was restored, bit for bit
  evaluation   every example of the test split counts once, whatever the batch size and the devices
  all-reduce   a step on several devices has one all-reduce
  shards       with parallel.virtual_shards, all bits are the same on 1, 2 and 4 devices. This is
               promised for models built from trainer.functional; others may break it
"""
EPILOG = """\
exit codes:
  0   all laws hold; or only `shards` does not, and the job does not use virtual shards
  65  bad data
  70  a law does not hold
  75  asked to stop
  78  an option or the user's module is wrong

examples:
  python -m trainer laws +experiment=mlp
  python -m trainer laws model=module model.module=digits_cnn.py optim=adamw
"""
# Each is a function of Laws; the cheapest first.
LAWS = ("dispatches", "gradients", "devices", "resume", "evaluation", "all-reduce", "shards")
DEVICES, SHARDS, BATCH, STEPS = 4, 4, 16, 6
SHORT = 3  # examples that the last batch lacks
TESTED = 50  # test examples
CLOSE = 1e-6  # of a step on other devices, relative to weights above 1
# Of the task's own gradients, relative to the largest in an array: in bfloat16 they are not closer.
NEAR = 0.01
# One thread a device: several on few cores can wait for each other's threads for ever.
FLAGS = f"--xla_force_host_platform_device_count={DEVICES} --xla_cpu_multi_thread_eigen=false"


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Check the laws on the task of a job; print which hold."""
    usage = "[--json] [+experiment=NAME] [OPTION=VALUE ...]"
    parser = command_line.parser("laws", DESCRIPTION, EPILOG, usage)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command_line.add_overrides(parser)
    args = command_line.parse(parser, arguments, overrides=True)
    # Before jax starts its devices, which a user's module may do when it is imported.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
    os.environ["JAX_PLATFORMS"] = "cpu"
    (job,) = compose_each([args.overrides])
    terminal, findings = Terminal(), list[tuple[str, bool, str]]()
    laws = Laws(job.config, terminal, stop)
    for number, name in enumerate(LAWS):
        stop.check("before all laws were checked")
        terminal.work(name, number, len(LAWS), "checking")
        try:
            finding = name, True, getattr(laws, name.replace("-", "_"))()
        except TrainerError:
            raise
        except Exception as error:  # of the law, or of the user's functions on these devices
            kind = not isinstance(error, AssertionError)
            finding = name, False, first_line(error, kind=kind)
        findings.append(finding)
    terminal.close()
    if args.json:
        keys = "law", "holds", "detail"
        show(to_json({"laws": [dict(zip(keys, f, strict=True)) for f in findings]}, indent=2))
    else:
        rows = [(law, "holds" if holds else "DOES NOT HOLD", text) for law, holds, text in findings]
        show("\n".join(table(rows, (0, 1, 2))))
    promised = job.config.parallel.virtual_shards is not None
    broken = [law for law, holds, _ in findings if not holds and (promised or law != "shards")]
    return EXIT_INTERNAL if broken else EXIT_COMPLETED


class Laws:
    """The laws, each a function that returns a detail or raises AssertionError with one."""

    def __init__(self, config: Config, terminal: Terminal, stop: StopRequest) -> None:
        """Load the data and keep some examples of it."""
        from trainer.data.dataset import first
        from trainer.data.report import Report
        from trainer.distributed.connect import configure
        from trainer.sources import load as data_sets

        configure(config.run, None, terminal.warn)
        parts = DEVICES * config.train.accumulate
        self._batch = -(-BATCH // parts) * parts
        short = {"global_batch_size": self._batch, "steps_per_dispatch": 1, "epochs": 1}
        self._config = _changed(config, "train", short)

        def poll() -> None:
            stop.check("during the download of the data set")

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
        import jax
        import numpy as np

        from trainer.tasks.task import batch_gradients, named_leaves

        task = self._programs(1, None)[1].task
        if task.gradients is None:
            return "jax.grad computes them"
        batch = jax.tree.map(lambda x: x[0], self._batches(task, 1)[0])
        own, right = (
            jax.device_get(jax.jit(partial(batch_gradients, one))(self._initial.weights, batch))
            for one in (task, task._replace(gradients=None))
        )
        theirs = named_leaves(right.gradients)
        for name, leaf in named_leaves(own.gradients).items():
            largest = np.max(np.abs(theirs[name]))
            off = np.max(np.abs(leaf - theirs[name]))
            assert off <= NEAR * largest, (
                f"{name} differs by {off:.1e}, the largest is {largest:.1e}"
            )
            bound = (1 + NEAR) * own.bound
            assert largest <= bound, (
                f"{name} has a gradient of {largest:.1e}, the bound is {own.bound:.1e}"
            )
        return f"the task's own are those of jax.grad, within {NEAR:.0%} of the largest"

    def devices(self) -> str:
        """One step on N devices is one step on one device."""
        # From one state each time: over several steps training would amplify the rounding.
        worst, state = 0.0, None
        for first in range(0, STEPS, 2):
            one = self._train(1, 1, 1, state=state, first=first)
            for devices in (2, DEVICES):
                other = self._train(devices, 1, 1, state=state, first=first)
                worst = max(worst, _difference(one.weights, other.weights))
            state = self._train(1, 1, 2, state=state, first=first)
        assert worst <= CLOSE, f"the weights differ by {worst:.1e} after one step: at most {CLOSE}"
        return f"the weights differ by at most {worst:.1e} after one step"

    def resume(self) -> str:
        """A checkpoint in the middle changes nothing."""
        from trainer.checkpoint.store import Best, Checkpoints

        unbroken, half = self._train(1, 1), STEPS // 2
        with tempfile.TemporaryDirectory(prefix="trainer-laws-") as folder:
            warnings: list[str] = []
            best = Best("loss", largest=False)
            checkpoints = Checkpoints(
                Path(folder), keep_last=1, keep_best=0, best=best, warn=warnings.append
            )
            with checkpoints:
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
        for devices, batch in ((1, TESTED), (1, 7), (DEVICES, 16)):
            result = self._evaluate(devices, batch, state)
            count = len(next(iter(self._dataset.test.values())))
            assert result.examples == count, f"{result.examples} examples counted, not {count}"
            results.append(result.means)
        for means in results[1:]:
            for name, value in means.items():
                off = abs(value - results[0][name]) / max(1.0, abs(value))
                assert off <= 1e-5, f"{name} differs by {off:.1e} with another batch size"
        return f"the same means for three batch sizes and 1 and {DEVICES} devices"

    def all_reduce(self) -> str:
        """A step on several devices has one all-reduce."""
        from trainer.plan.traffic import traffic

        program, state, inputs = self._program(DEVICES, 1, None, None)
        collectives = traffic(program.lower(state, inputs(0)).compile().as_text()).collectives
        assert collectives.get("all-reduce") == 1, f"the compiled step has {collectives}"
        return "the compiled step has one"

    def shards(self) -> str:
        """With virtual shards, the number of devices changes no bit."""
        one = self._train(1, 1, shards=SHARDS)
        for devices, k in ((2, 1), (DEVICES, STEPS)):
            other = self._train(devices, k, shards=SHARDS)
            _assert_equal(
                one, other, f"parallel.virtual_shards={SHARDS} on 1 and {devices} devices"
            )
        return f"parallel.virtual_shards={SHARDS}: the same bits on 1, 2 and {DEVICES} devices"

    def _make_programs(self, devices: int, shards: int | None) -> tuple[Mesh, Programs]:
        """Return so many devices and what is compiled for them, with so many virtual shards."""
        from trainer.parallel import mesh as meshes
        from trainer.train import programs

        mesh = meshes.make_mesh(devices)
        config = _changed(self._config, "parallel", {"virtual_shards": shards})
        return mesh, programs.make_programs(config, self._dataset, mesh)

    @cached_property
    def _initial(self) -> TrainState:
        """The state before the first step, on the host."""
        import jax

        from trainer.parallel.step import init_state

        mesh, made = self._programs(1, None)
        key = jax.random.PRNGKey(self._config.run.seed)
        state: TrainState = jax.device_get(init_state(made.task, made.update, key, mesh))
        return state

    def _batches(self, task: Task, k: int) -> Superbatches:
        """Return the batches of the steps, K a dispatch."""
        from trainer.train import programs

        plan = self._programs(1, None)[1].plan._replace(steps_per_dispatch=k)
        rows = slice(0, self._batch)
        return programs.superbatches(self._config, self._dataset, task, rows, 0, plan)

    def _program(
        self, devices: int, k: int, shards: int | None, state: TrainState | None
    ) -> tuple[TrainStep, TrainState, Callable[[int], DispatchInputs]]:
        """Return the program of K steps, a state (None: the initial one), and step -> inputs."""
        from trainer.parallel import mesh as meshes
        from trainer.train import feed

        mesh, made = self._programs(devices, shards)
        seed, batches = self._config.run.seed, self._batches(made.task, k)
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
        import jax

        program, placed, inputs = self._program(devices, k, shards, state)
        for step in range(first, first + steps, k):
            placed, _ = program(placed, inputs(step))
        result: TrainState = jax.device_get(placed)
        return result

    def _evaluate(self, devices: int, batch: int, state: TrainState) -> Any:
        from trainer.parallel import mesh as meshes
        from trainer.parallel.evaluation import Evaluator

        mesh, made = self._programs(devices, None)
        names = made.task.metric_names
        evaluate = Evaluator(made.eval_step, names, self._dataset.test, mesh, batch)
        return evaluate(meshes.place(meshes.replicated(mesh), state.weights))


def _changed(config: Config, group: str, changes: dict[str, Any]) -> Config:
    """Return the options with some of a group changed, whatever the rules for them."""
    changed = dataclasses.replace(getattr(config, group), **changes)
    return dataclasses.replace(config, **{group: changed})


def _assert_equal(one: Any, other: Any, what: str, hint: str = "") -> None:
    from trainer.tasks.task import named_leaves

    theirs = named_leaves(other)
    wrong = [
        name for name, leaf in named_leaves(one).items() if leaf.tobytes() != theirs[name].tobytes()
    ]
    assert not wrong, f"{what} differ in {len(wrong)} arrays, such as {wrong[0]}{hint}"


def _difference(one: Any, other: Any) -> float:
    """Return the largest difference between two pytrees, relative to what is above 1."""
    import jax
    import numpy as np

    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(
        float(np.max(np.abs(a.astype(np.float64) - b) / np.maximum(1, np.abs(b)))) for a, b in pairs
    )
