"""What a run begins with: its newest checkpoint, if it belongs to this configuration; init.run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from trainer.checkpoint import files, load_model, shards, transfer
from trainer.checkpoint.checksums import Record
from trainer.checkpoint.shared import check_seen_by_all
from trainer.checkpoint.store import Checkpoints, Restored
from trainer.config.fingerprint import differences
from trainer.config.schema import InitConfig
from trainer.data.stream import Plan
from trainer.distributed import collectives
from trainer.distributed.initialize import ProcessContext
from trainer.job.directory import existing
from trainer.job.errors import ConfigError
from trainer.job.files import Damaged
from trainer.optimizers.schedules import Schedule
from trainer.parallel import mesh as meshes
from trainer.parallel.sharding import is_whole
from trainer.tasks.task import Weights, named_leaves
from trainer.tracking.terminal import Terminal


def restore(
    checkpoints: Checkpoints | None,
    directory: Path,
    template: Any,
    shardings: Any,
    fingerprint: Mapping[str, Any],
    plan: Plan,
    schedule_of: Callable[[int], Schedule],
) -> Restored | None:
    """Restore the newest intact checkpoint on all processes; None if there has never been one.

    Process 0 chooses it. It reads and broadcasts a state that was saved as a whole: no other
    process needs the disk. Of a sharded one, each process reads the chunks that its devices need.

    Args:
        checkpoints: of the run, on process 0; None on all others.
        directory: the folder of the checkpoints.
        template: a pytree of the shapes and dtypes of the state.
        shardings: how each array is to be sharded, in the same structure; whatever it was.
        fingerprint: the options that must not change on resume.
        plan: the steps of this training.
        schedule_of: epochs -> the learning rates of a training of so many.

    Returns:
        the checkpoint; its state is on the devices.

    Raises:
        ConfigError: the run was started with another fingerprint, or has done more steps than
            planned; or not all processes see the folder of a sharded state.
        DataError: there are checkpoints, and none is intact.
        ReadError, SaveError: the storage does not let them be read, or a damaged one be renamed.
    """
    state: Any = None  # on process 0: that of the checkpoint, in numpy arrays

    def read() -> tuple[int, Record, bool] | None:
        """Return the step, the record, and whether the state is in chunks: all processes get it."""
        nonlocal state
        if checkpoints is None:
            return None
        run = checkpoints.directory.parent
        # Before any array is read: one of another shape would look like a damaged checkpoint.
        if (record := checkpoints.newest_record()) is not None:
            _check_fingerprint(run, record, fingerprint, schedule_of)
        if (restored := checkpoints.restore(template)) is None:
            return None
        if restored.step > plan.total_steps:
            raise ConfigError(
                f"train.epochs, perhaps with train.max_steps, allow {plan.total_steps:,} steps: "
                f"{run} has done {restored.step:,}, {restored.step / plan.steps_per_epoch:g} "
                "epochs",
                "use at least that many, or start another run with run.name=NAME",
            )
        state = restored.state
        return restored.step, restored.record, restored.chunks is not None

    if not is_whole(shardings):
        check_seen_by_all(directory, collectives.share)
    while (newest := collectives.share(read)[0]) is not None:
        step, record, in_chunks = newest
        if not in_chunks:
            return Restored(step, _from_chief(state, template, shardings), record)
        # A process that sees another folder would take this checkpoint for damaged.
        check_seen_by_all(directory, collectives.share)
        chunks = _from_chunks(checkpoints, directory / str(step), template, shardings)
        if chunks is not None:
            return Restored(step, chunks, record)
    return None


def _from_chief(tree: Any, template: Any, shardings: Any) -> Any:
    """Return the numpy arrays of process 0 on the devices; the other processes give None."""
    if tree is None:
        tree = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
    return meshes.spread(shardings, collectives.broadcast(tree))


def _from_chunks(
    checkpoints: Checkpoints | None, folder: Path, template: Any, shardings: Any
) -> Any | None:
    """Return a state, read by all processes from its chunks; None: damaged, and set aside."""
    states = []

    def read() -> str | None:
        try:
            chunks = files.opened(folder, {}).chunks  # process 0 knows the shape of its record
            states.append(shards.restore(folder, chunks or {}, template, shardings))
        except Damaged as damage:
            return str(damage)
        return None

    def set_aside() -> None:
        if checkpoints is not None:
            checkpoints.set_aside(int(folder.name), damages[0])

    damages = [damage for damage in collectives.share(read) if damage is not None]
    if not damages:
        return states[0]
    collectives.together(set_aside)
    return None


def other_weights(
    init: InitConfig, weights: Weights, process: ProcessContext, terminal: Terminal
) -> Weights:
    """Return the weights, with those of init.run in the place of leaves that are like them.

    Process 0 reads them and broadcasts them, as `restore` does.

    Raises:
        ConfigError: init.run is no run, nothing fits, or init.map is wrong.
        DataError: that run has no such checkpoint that is intact.
    """

    def read() -> dict[str, Any] | None:
        if not process.is_chief:
            return None
        run = existing(str(init.run), "init.run")
        number, other = load_model.arrays_of(run, init.step, terminal.warn, "init.step=")
        result = transfer.transfer(weights, other, init.map)
        rows = [("taken", [*result.taken]), ("drawn", result.drawn), ("left over", result.left)]
        terminal.note(f"init.run={init.run}: the weights after step {number:,}")
        terminal.note("\n".join(f"  {what:9}  {', '.join(paths)}" for what, paths in rows if paths))
        return result.taken

    taken = collectives.together(read)
    names = collectives.share(lambda: None if taken is None else [*taken])[0]
    own = named_leaves(weights)
    replaced = {name: own[name] for name in names}
    shardings = {name: leaf.sharding for name, leaf in replaced.items()}
    placed = _from_chief(taken, replaced, shardings)
    return jax.tree.unflatten(jax.tree.structure(weights), ({**own, **placed}).values())


def _check_fingerprint(
    run: Path,
    record: Mapping[str, Any],
    now: Mapping[str, Any],
    schedule_of: Callable[[int], Schedule],
) -> None:
    """Check the options that the record of a checkpoint keeps against those of now."""
    before = record["meaning"]
    epochs = [of.get("train.epochs") for of in (before, now)]
    if None not in epochs and epochs[0] != epochs[1]:
        steps = np.arange(record["step"])
        one, other = (schedule_of(int(str(each)))(steps) for each in epochs)
        if np.array_equal(one, other):  # more epochs change no step that is done
            before = {**before, "train.epochs": epochs[1]}
    if not (changed := differences(before, now)):
        return
    lines = [f"{run} was started with another configuration:", *(f"  {line}" for line in changed)]
    if any(line.startswith("train.epochs:") for line in changed):
        lines.append(
            "With optim.schedule and these epochs, steps that are done would have had another "
            "learning rate."
        )
    if any(line.startswith("data.validation_fraction: 0 in") for line in changed):
        lines.append(
            "It was trained on all training examples: data.validation_fraction=0 continues it."
        )
    hint = "Give these options as they were, or start another run with run.name=NAME"
    raise ConfigError("\n".join([*lines, hint]))
