"""A step that is not finite ends the run with its state saved, or is skipped and counted."""

import json

from support.in_process import CONSTANT, SMOKE, summary_of, train


def test_a_step_that_is_not_finite_ends_the_run_with_its_state_saved(trainer, tmp_path):
    bad = (*SMOKE, *CONSTANT, "optim.lr=1e9", "train.steps_per_dispatch=5")
    for process in trainer.start_all(2, *bad):
        _, err = process.communicate(timeout=240)
        assert process.returncode == 70, err
        assert "not finite" in err
        assert "Traceback" not in err
    summary = summary_of(tmp_path)
    assert summary["status"] == "failed"
    message = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert message["step"] == summary["steps"] + 1
    assert len(set(message["examples"])) == 64
    assert set(message["gradient_norms"]) == {
        f"{i}/{name}" for i in range(2) for name in ("kernel", "bias")
    }
    assert message["weights_finite"]
    assert (tmp_path / "run" / "checkpoints" / str(summary["steps"])).is_dir()


def test_a_step_that_was_not_finite_is_told_though_its_file_cannot_be_written(tmp_path):
    (tmp_path / "run" / "nonfinite.json").mkdir(parents=True)
    done = train(tmp_path, *SMOKE, *CONSTANT, "optim.lr=1e9")
    assert done.returncode == 70, done.stderr
    assert "not finite" in done.stderr
    assert "nonfinite.json cannot be written (Is a directory)" in done.stderr
    assert summary_of(tmp_path)["status"] == "failed"


def test_an_update_that_is_not_finite_can_be_skipped_and_is_counted(tmp_path):
    done = train(tmp_path, *SMOKE, *CONSTANT, "optim.lr=1e9", "train.on_nonfinite=skip")
    assert done.returncode == 0, done.stderr
    assert summary_of(tmp_path)["skipped_steps"] > 0
    assert "its update is dropped" in done.stderr
    skipped = summary_of(tmp_path)["skipped_steps"]
    assert (
        train(tmp_path, *SMOKE, *CONSTANT, "optim.lr=1e9", "train.on_nonfinite=skip").returncode
        == 0
    )
    assert summary_of(tmp_path)["skipped_steps"] == skipped  # kept over restarts
