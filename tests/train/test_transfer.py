"""A run that begins with the weights of another one, of which some stay as they are."""

import shutil

import numpy as np
import pytest
from support.in_process import StopAfter, summary_of, train

from trainer.checkpoint import files, load_model, transfer
from trainer.job.errors import ConfigError

SMALL = ("+experiment=smoke", "train.global_batch_size=400", "train.steps_per_dispatch=3")
OTHER = {
    "body/w": np.ones((4, 3), np.float32),
    "body/b": np.ones(3, np.float32),
    "head": np.ones((3, 10), np.float32),
}
MINE = {"trunk": {"w": np.zeros((4, 3), np.float32), "b": np.zeros(3, np.float32)}}
MINE["head"] = np.zeros((3, 2), np.float32)


def test_leaves_of_one_path_and_shape_are_taken():
    result = transfer.transfer(MINE, OTHER, ["body:trunk"])
    assert sorted(result.taken) == ["trunk/b", "trunk/w"]
    assert (result.drawn, result.left) == (["head"], ["head"])
    one = transfer.transfer(MINE, OTHER, ["body/w:trunk/w"])
    assert ([*one.taken], one.left) == (["trunk/w"], ["body/b", "head"])


def test_a_pattern_freezes_leaves_and_what_is_below_them():
    assert transfer.frozen(MINE, []) is None
    assert transfer.frozen(MINE, ["trunk"]) == {"trunk": {"w": True, "b": True}, "head": False}
    assert transfer.frozen(MINE, ["*/b"]) == {"trunk": {"w": False, "b": True}, "head": False}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: transfer.transfer(MINE, OTHER, []), "init.run: no weights of that run have the"),
        (
            lambda: transfer.transfer(MINE, OTHER, ["bdy:trunk"]),
            "init.map=bdy:trunk: the other run has no weights bdy: use OTHER:THIS, with leaves or",
        ),
        (
            lambda: transfer.transfer(MINE, OTHER, ["body:trnk"]),
            "init.map=body:trnk: this model has no weights trnk: use OTHER:THIS",
        ),
        (
            lambda: transfer.frozen(MINE, ["head", "tail"]),
            "init.freeze=[head,tail]: tail matches no weights: the weights are head, trunk/b, tru",
        ),
        (
            lambda: transfer.frozen(MINE, ["*"]),
            "init.freeze=[*]: nothing is left to train: the weights are head, trunk/b, trunk/w",
        ),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ConfigError) as raised:
        call()
    assert message in str(raised.value)


def arrays_of(run):
    with files.checkpointer() as reader:
        newest = max((run / "checkpoints").iterdir(), key=lambda folder: int(folder.name))
        return files.read(reader, newest)[0]


def test_a_run_with_another_head_begins_with_a_body_that_stays_frozen(tmp_path):
    assert train(tmp_path, *SMALL, "run.dir=first", "train.max_steps=6").returncode == 0
    _, first = load_model.arrays_of(tmp_path / "first", None, print, "")
    new = (*SMALL, "run.dir=run", "model.hidden_sizes=[64,32]", "init.run=first", "init.freeze=[0]")
    new += ("optim.clip_norm=1", "ema.decay=0.9")
    stopped = train(tmp_path, *new, stop=StopAfter(5))
    assert stopped.returncode == 75, stopped.stderr
    assert "init.run=first: the weights after step 6" in stopped.stderr
    assert "taken      0/kernel, 0/bias" in stopped.stderr
    assert "drawn      1/kernel, 1/bias, 2/kernel, 2/bias" in stopped.stderr
    assert "init.freeze: 0/kernel, 0/bias\n" in stopped.stderr
    shutil.move(tmp_path / "first", tmp_path / "elsewhere")  # is not needed any more
    assert train(tmp_path, *new).returncode == 0
    saved = arrays_of(tmp_path / "run")
    for name in ("0/kernel", "0/bias"):
        np.testing.assert_array_equal(saved[f"weights/{name}"], first[name])
        np.testing.assert_array_equal(saved[f"ema/{name}"], first[name])
    assert not any(name.startswith("optim_state/velocities/0") for name in saved)
    assert any(name.startswith("optim_state/velocities/1") for name in saved)
    # Without a stop, the same bits.
    whole = train(tmp_path, *new, "run.dir=whole", "init.run=elsewhere/../elsewhere")
    assert whole.returncode == 0, whole.stderr
    assert summary_of(tmp_path, "whole")["weights_sha256"] == summary_of(tmp_path)["weights_sha256"]
    done = train(tmp_path, *new, "init.freeze=[1]")
    assert done.returncode == 78
    assert "init.freeze: ['0'] in the checkpoint, ['1'] in this configuration" in done.stderr
