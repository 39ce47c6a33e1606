"""`python -m trainer verify RUN`: read every checkpoint of a run and report which are intact."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trainer.commands import arguments as command_line
from trainer.job.directory import ASIDE, CHECKPOINTS, TRASH, WRITING, existing
from trainer.job.errors import EXIT_COMPLETED, DataError
from trainer.job.files import to_json
from trainer.job.signals import StopRequest
from trainer.job.stdout import show, table
from trainer.tracking import runs

DESCRIPTION = """\
Reads every checkpoint of a run and compares every file, and every array in them, with the SHA-256
that was saved with it.

Nothing is written, renamed or deleted, and no configuration, data or GPU is needed: it may run at
any time, also during training or on a read-only folder.
"""
EPILOG = """\
results:
  ok         all files and arrays are, bit for bit, what was saved
  damaged    they are not; the table says what is wrong. Starting the run again renames a damaged
             one to bad-STEP.NUMBER and resumes from the newest intact one; nothing is deleted
  best       of the intact ones, the one that --step best takes in other commands

exit codes:
  0   there are checkpoints, and all are intact
  65  one is damaged, or there is none
  74  the storage does not let a file be read, so its state is unknown; or the output cannot be
      written
  75  asked to stop
  78  RUN is not a run directory, or an option is wrong

example:
  python -m trainer verify runs/mlp/first
"""
Checked = dict[str, Any]  # one checkpoint, as in the JSON; see _check


# What is shown of an evaluation: the first that was measured.
RESULTS = ("validation_accuracy", "validation_loss", "test_accuracy", "test_loss")


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Verify the checkpoints of a run and print a table, or JSON."""
    parser = command_line.parser("verify", DESCRIPTION, EPILOG)
    command_line.add_run(parser, step=False)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = command_line.parse(parser, arguments)
    directory = existing(args.run).resolve() / CHECKPOINTS
    checked: list[Checked] = []
    for one in _check(directory):
        checked.insert(0, one)
        stop.check("before all checkpoints were verified")
    from trainer.checkpoint import load_model  # once _check has kept jax off the GPU

    intact = [one["step"] for one in checked if one["ok"]]
    best = load_model.by_value(directory.parent, intact)[-1:]
    checked = [{**one, "best": one["step"] in best} for one in checked]
    others = sorted(path.name for path in directory.glob("*/"))
    aside = [name for name in others if name.startswith(ASIDE)]
    unfinished = [name for name in others if name.startswith((WRITING, TRASH))]
    if args.json:
        report = {"directory": str(directory), "checkpoints": checked}
        show(to_json({**report, "set_aside": aside, "unfinished": unfinished}, indent=2))
    else:
        show("\n".join(_lines(checked, aside, unfinished)))
    if not checked:
        raise DataError(
            f"{directory} has no checkpoint",
            "a run started there begins at step 0; if it should have one, put an intact copy back, "
            "or look for the directory it was saved to (run.dir, run.name)",
        )
    if damaged := len(checked) - len(intact):
        message = f"{directory}: {damaged} of {len(checked)} checkpoints damaged"
        if intact:
            raise DataError(message, f"starting the run again resumes from step {intact[-1]}")
        raise DataError(f"{message}, none intact", "put an intact copy back or start another run")
    return EXIT_COMPLETED


def _check(directory: Path) -> Iterator[Checked]:
    """Read the committed checkpoints, newest first, because the oldest may be deleted any time.

    Yields for each its step; ok; damage, which says what is wrong, or None; validation_accuracy and
    test_accuracy, 0 to 1, validation_loss and test_loss, None where they were not measured or the
    record is damaged; bytes, of all its files; and saved_at, in seconds since 1970.
    """
    import jax

    # Before orbax asks for the devices: the GPU belongs to the job that trains on it.
    jax.config.update("jax_platforms", "cpu")
    from trainer.checkpoint import files
    from trainer.job.files import Damaged

    with files.checkpointer() as reader:
        for step in reversed(files.steps(directory)):
            folder = directory / str(step)
            damage, record = None, dict[str, Any]()
            try:
                record = files.check(reader, folder)
            except Damaged as error:
                damage = str(error)
            try:
                saved_at = folder.stat().st_mtime  # nothing is added to it afterwards
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            except FileNotFoundError:
                continue  # the job that writes here has deleted it, as it should
            result = {"step": step, "ok": damage is None, "damage": damage}
            results = {name: record.get(name) for name in RESULTS}
            yield {**result, **results, "bytes": size, "saved_at": saved_at}


def _lines(checked: list[Checked], aside: list[str], unfinished: list[str]) -> Iterator[str]:
    """Yield a table of the committed checkpoints, and a line for each kind of other folders."""
    rows = [("step", "result", "evaluation", "MB", "saved at", "")]
    for one in checked:
        known = [name for name in RESULTS if one[name] is not None]
        tested = "-"
        if known:
            split, _, metric = known[0].partition("_")
            tested = f"{split} {runs.score_text(f'{metric}:max', one[known[0]])}"
        saved_at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["saved_at"]))
        size, result = f"{one['bytes'] / 1e6:.2f}", "ok" if one["ok"] else "damaged"
        result += ", best" * one["best"]
        rows.append((str(one["step"]), result, tested, size, saved_at, one["damage"] or ""))
    if checked:
        yield from table(rows, left=(1, 4, 5))
    if aside:
        yield f"damaged, renamed by an earlier start (safe to delete): {', '.join(aside)}"
    if unfinished:
        yield f"half written or half deleted (not used): {', '.join(unfinished)}"
