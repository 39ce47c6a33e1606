"""`verify` tells intact checkpoints from damaged ones, and says what is wrong."""

import os
import shutil

import pytest
from support.harm import flip_a_bit, largest_file
from support.trained_runs import everything

from trainer.job.errors import EXIT_DATA, EXIT_SAVE


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: flip_a_bit(largest_file(folder)), "file ocdbt.process_0/d/"),
        (lambda folder: (folder / "_METADATA").write_text("{"), "file _METADATA does not match"),
        (lambda folder: os.truncate(largest_file(folder), 2**43), "has 8,796,093,022,208 bytes"),
        (lambda folder: (folder / "_METADATA").unlink(), "file _METADATA is missing"),
        (lambda folder: flip_a_bit(folder / "_CHECKPOINT_METADATA"), "file _CHECKPOINT_METADATA"),
        (lambda folder: (folder / "manifest.ocdbt").unlink(), "file manifest.ocdbt is missing"),
        (
            lambda folder: flip_a_bit(folder / "manifest.ocdbt"),
            "file manifest.ocdbt does not match",
        ),
        (lambda folder: [p.unlink() for p in (folder / "d").iterdir()], "is missing"),
        (lambda folder: shutil.rmtree(folder / "d"), "is missing"),
        (lambda folder: (folder / "commit_success.txt").unlink(), "commit_success.txt is missing"),
        (lambda folder: flip_a_bit(folder / "record.json"), "file record.json"),
        (lambda folder: (folder / "record.json").unlink(), "file record.json is missing"),
    ],
    ids=[
        *(
            "array",
            "tree",
            "terabytes",
            "no tree",
            "metadata",
            "no manifest",
            "manifest",
            "no index",
        ),
        *("no folder", "no mark", "record", "no record"),
    ],
)
def test_a_damaged_checkpoint_is_named_with_what_is_wrong(verified, run, damage, named):
    damage(run / "checkpoints" / "100")
    code, out, error = verified(run)
    assert code == EXIT_DATA
    row = out.splitlines()[-1]
    assert row.split()[:2] == ["100", "damaged"]
    assert named in row
    assert str(run) not in row
    assert "1 of 3 checkpoints damaged" in error
    assert "resumes from step 10" in error


def test_a_checkpoint_under_the_name_of_another_step_is_damaged(verified, run):
    (run / "checkpoints" / "100").rename(run / "checkpoints" / "200")
    code, out, _ = verified(run)
    assert code == EXIT_DATA
    assert "it was saved as step 100" in out


def test_all_damaged(verified, run):
    for step in (9, 10, 100):
        flip_a_bit(largest_file(run / "checkpoints" / str(step)))
    code, _, error = verified(run)
    assert code == EXIT_DATA
    assert "3 of 3 checkpoints damaged, none intact" in error


def test_only_checkpoints_set_aside(verified, run):
    for step in (9, 10, 100):
        (run / "checkpoints" / str(step)).rename(run / "checkpoints" / f"bad-{step}.0")
    code, _, error = verified(run)
    assert code == EXIT_DATA
    assert "has no checkpoint" in error


def test_a_file_that_the_storage_does_not_give_is_not_called_damaged(verified, run):
    path = run / "checkpoints" / "100" / "manifest.ocdbt"
    path.unlink()
    path.symlink_to("/proc/self/mem")  # reading its beginning is an input/output error
    code, _, error = verified(run)
    assert code == EXIT_SAVE
    assert f"{path} cannot be read (Input/output error)" in error


def test_nothing_is_touched(verified, run):
    flip_a_bit(largest_file(run / "checkpoints" / "100"))
    (run / "checkpoints" / "trash-9").mkdir()
    folders = [path for path in [run, *run.rglob("*")] if path.is_dir()]
    before = everything(run)
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert verified(run)[0] == EXIT_DATA
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert everything(run) == before
