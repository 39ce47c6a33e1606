"""A save is there whole and on disk, or not at all."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import assert_equal, make_state
from support.harm import files_of_at_most

SAVES = """
import itertools, pathlib, sys
import numpy as np
from trainer.checkpoint.store import Best, Checkpoints

folder, best = pathlib.Path(sys.argv[1]), Best("loss", largest=False)
with Checkpoints(folder, keep_last=2, keep_best=0, best=best, warn=print) as checkpoints:
    for step in itertools.count(max(checkpoints.steps, default=0) + 1):
        checkpoints.save(step, {"x": np.full(1000, step)}, {})
"""


def test_what_killed_saves_leave_is_no_checkpoint_and_is_removed(opened):
    template = {"x": np.zeros(1000, int)}
    for _ in range(2):
        before = max((int(p.name) for p in opened.folder.glob("[0-9]*")), default=0)
        process = subprocess.Popen([sys.executable, "-c", SAVES, str(opened.folder)])
        deadline = time.monotonic() + 240
        while not any(opened.folder.glob(f"saving-{before + 3}*")):  # about half of it written
            assert process.poll() is None
            assert time.monotonic() < deadline
        process.kill()
        process.wait()
    assert list(opened.folder.glob("saving-*"))
    with opened() as checkpoints:
        restored = checkpoints.restore(template)
        assert restored.state["x"][0] == restored.step == checkpoints.steps[-1] >= 4
    assert not opened.warnings
    assert all(path.name.isdecimal() for path in opened.folder.iterdir())


def test_a_checkpoint_is_on_disk_before_it_counts_and_before_an_older_one_goes(opened, monkeypatch):
    output = []

    def observe(name, describe):
        real = getattr(os, name)

        def call(*arguments, **options):
            output.append((name, *describe(*arguments)))
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, call)

    def within(path):
        return os.path.relpath(path, opened.folder)

    with opened(keep_last=1) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        observe("fsync", lambda number: [within(Path(f"/proc/self/fd/{number}").readlink())])
        observe("rename", lambda old, new: [within(old), within(new)])
        observe("rmdir", lambda path, **_: [str(path)])
        observe("unlink", lambda path, **_: [str(path)])
        checkpoints.save(2, make_state(2), {})
    committed = output.index(("rename", "saving-2", "2"))
    new = opened.folder / "2"
    names = [".", *(str(path.relative_to(new)) for path in new.rglob("*"))]
    assert len(names) > 10
    for name in names:
        assert ("fsync", os.path.normpath(f"saving-2/{name}")) in output[:committed]
    assert output[committed + 1 : committed + 4] == [
        ("fsync", "."),
        ("rename", "1", "trash-1"),
        ("fsync", "."),
    ]
    assert {event[0] for event in output[committed + 4 :]} == {"unlink", "rmdir"}
    assert not {"unlink", "rmdir"} & {event[0] for event in output[:committed]}


def test_a_save_that_fails_leaves_nothing_and_the_next_succeeds(opened):
    with opened() as checkpoints:
        checkpoints.save(1, make_state(1), {})
        big = {"x": np.random.default_rng(0).normal(size=1_000_000)}
        with files_of_at_most(1_000_000), pytest.raises(ValueError, match="File too large"):
            checkpoints.save(2, big, {})
        assert [path.name for path in opened.folder.iterdir()] == ["1"]
        checkpoints.save(2, make_state(2), {})
        assert_equal(checkpoints.restore(make_state()).state, make_state(2))
