"""Checkpoints of a sharded state, by processes that share a folder."""

import sys
from pathlib import Path

from support.connected import CONNECTED
from support.sharded import assert_restored, opened, shardings

ROOT = Path(__file__).parents[2]
PROGRAM = f"""{CONNECTED}
import pathlib, sys
from support import sharded_process
root, own, *others = sys.argv[1:]
sharded_process.main(pathlib.Path(root), own, others)
"""
LAYOUTS = {"2x2": (2, 2), "4x1": (4, 1)}  # processes and devices of each


def test_processes_save_and_restore_each_others_checkpoints(trainer, tmp_path):
    with opened(tmp_path / "1x4", "all", 4) as run:
        for step in (1, 2, 3):
            run.save(step)
    (tmp_path / "1x4.done").touch()
    started = []
    for own, (processes, devices) in LAYOUTS.items():
        others = [layout for layout in ("1x4", *LAYOUTS) if layout != own]
        program = (sys.executable, "-c", PROGRAM, str(tmp_path), own, *others)
        paths = f"{ROOT}:{ROOT / 'tests'}"
        started += trainer.start_all(processes, program=program, devices=devices, PYTHONPATH=paths)
    for process in started:
        _, err = process.communicate(timeout=180)
        assert process.returncode == 0, err
    for layout in LAYOUTS:
        for kind, devices in (("all", 8), ("optimizer", 2), ("none", 1)):
            with opened(tmp_path / layout, kind, devices) as run:
                target = shardings(kind, devices)
                assert_restored(run.restore(target), target, 3)
