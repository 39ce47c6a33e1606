"""What commands take of a run: the newest or the best checkpoint, the module as it was."""

import json
import os

import numpy as np
import pytest
from support import in_process, user_tasks

from trainer.checkpoint import load_model
from trainer.commands import evaluate
from trainer.job.errors import DataError
from trainer.job.signals import StopRequest


def test_the_best_checkpoint_that_is_kept(tmp_path, capsys):
    """The largest loss counts as the best here: not that of the newest checkpoint."""
    best = ("checkpoint.best=loss:max", "checkpoint.keep_last=1")
    done = in_process.train(tmp_path, *in_process.SMOKE, *best)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    losses = {
        point["step"]: point["loss"]
        for point in in_process.points_of(tmp_path)
        if point["split"] == "validation"
    }
    assert evaluate.main([str(run), "--step", "best", "--json"], StopRequest()) == 0
    assert json.loads(capsys.readouterr().out)["step"] == max(losses, key=losses.get) == 57
    assert load_model.load(run, None, pytest.fail).step == 114
    none = ("data.validation_fraction=0", "run.dir=none")
    assert in_process.train(tmp_path, *in_process.SMOKE[:1], *none).returncode == 0
    with pytest.raises(DataError, match="no checkpoint with results on a validation split"):
        load_model.load(tmp_path / "none", "best", pytest.fail)


def test_a_module_that_has_changed_since_is_used_as_it_was(tmp_path):
    run = user_tasks.train(tmp_path, "digits", user_tasks.DIGITS)
    before = load_model.load(run, None, pytest.fail)
    file = tmp_path / "digits.py"
    os.environ.pop("TRAINER_CONFIG_DIR", None)
    for changed in ("def fwd(image): ...", "def fwd(", "\0"):  # the last two are no Python
        file.write_text(changed)
        messages = []
        now = load_model.load(run, None, messages.append)
        (message,) = messages
        assert message.startswith(f"{file} or a file that it imports has changed since the run was")
        assert now.outputs == before.outputs


def test_a_file_that_the_module_imports_has_changed_since(tmp_path):
    beside, text = tmp_path / "beside.py", "LARGEST = 255"
    beside.write_text(text)
    own = "from beside import LARGEST\n" + user_tasks.DIGITS.replace("/ 255", "/ LARGEST")
    run = user_tasks.train(tmp_path, "digits", own)
    image = {"image": np.arange(784, dtype=np.uint8).reshape(1, 28, 28)}
    before = load_model.load(run, None, pytest.fail)
    beside.write_text("LARGEST = 1000")
    messages = []
    now = load_model.load(run, None, messages.append)
    (message,) = messages
    assert "digits.py or a file that it imports has changed since the run was trained" in message
    for name, value in before.predict(image).items():
        np.testing.assert_array_equal(now.predict(image)[name], value)
