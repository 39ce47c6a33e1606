"""Trials that train at once: each ends alone, and leaves what it leaves when they train in turn."""

import json
import os
import signal

import pytest
from support.harm import own_disk
from support.in_process import summary_of, train
from support.sweeps import summary, table, wait_for

from trainer.job import lock

pytestmark = pytest.mark.slow

TINY = (
    *("+experiment=smoke", "model.hidden_sizes=[8]", "train.epochs=1"),
    "train.pictures_every_epochs=null",
)
TWO_DEVICES = {"JAX_NUM_CPU_DEVICES": "2"}


def test_each_ends_alone_and_all_die_with_the_sweep(trainer, tmp_path):
    command = ("-m", *TINY, "optim.lr=0.05,0.02,1e30", "run.dir=sweep", "sweep.parallel=2")
    good, killed, diverging = (
        tmp_path / "sweep" / f"optim.lr={lr}" for lr in (0.05, 0.02, "1e+30")
    )
    first = trainer.start(*command, **TWO_DEVICES)
    wait_for(lambda: lock.held(good) and lock.held(killed), first)
    os.kill(json.loads((killed / "run.lock").read_text())["pid"], signal.SIGKILL)
    wait_for(lambda: lock.held(diverging), first)  # the next one takes its place
    first.kill()
    _, err = first.communicate()
    assert "2/3 optim.lr=0.02: failed: killed by SIGKILL" in err
    wait_for(lambda: not any(map(lock.held, (good, killed, diverging))), seconds=240)

    done = trainer(*command, **TWO_DEVICES)
    assert done.returncode == 70, done.stderr
    rows = {row["optim.lr"]: row for row in table(tmp_path / "sweep")}
    assert [rows[lr]["status"] for lr in ("0.05", "0.02", "1e+30")] == [
        *("completed", "completed", "failed")
    ]
    assert "not finite" in rows["1e+30"]["error"]
    for lr, run in (("0.05", good), ("0.02", killed)):
        assert summary(run)["devices"] == 1
        alone = train(tmp_path, *TINY, f"optim.lr={lr}", f"run.dir={lr}")
        assert alone.returncode == 0
        assert rows[lr]["weights_sha256"] == summary_of(tmp_path, lr)["weights_sha256"]


def test_a_full_disk_leaves_the_others_alone(trainer, tmp_path):
    (tmp_path / "sweep" / "run.seed=0").mkdir(parents=True)
    command = ("-m", *TINY, "run.seed=0,1", "run.dir=sweep", "sweep.parallel=2")
    with own_disk(tmp_path / "sweep" / "run.seed=0", "size=16k"):
        done = trainer(*command, **TWO_DEVICES)
        assert done.returncode == 74, done.stderr
        assert "Traceback" not in done.stderr
        assert "1/2 run.seed=0: failed: " in done.stderr
        assert summary(tmp_path / "sweep" / "run.seed=1")["status"] == "completed"
