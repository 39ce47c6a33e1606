"""The laws of whole runs with every option of training on at once."""

import shutil

import pytest
from support import everything
from support.in_process import StopAfter, points_of, summary_of, train

from trainer.parallel import compiler

PRECISION = "float32" if compiler.cannot_multiply("cpu", "bfloat16") else "bfloat16"
TASKS = {  # the task, and what is frozen of the weights of another run, perhaps renamed
    "dropout": (everything.MODULE, ("init.map=[body:hidden]", "init.freeze=[hidden/bias]")),
    "mlp": (
        ("+experiment=smoke", "model.hidden_sizes=[8]", f"model.precision={PRECISION}"),
        ("init.freeze=[0/bias]",),
    ),
}
RUN = (
    *("train.global_batch_size=144", "train.epochs=9", "train.log_every_steps=5"),
    *("checkpoint.every_steps=30", "train.pictures_every_epochs=null"),
    "train.steps_per_dispatch=5",
)
SAME = ("status", "steps", "weights_sha256", "ema_sha256", "test_loss", "test_accuracy")


def results(folder):
    return {name: summary_of(folder)[name] for name in SAME}


@pytest.fixture(scope="module", params=TASKS)
def whole(request, tmp_path_factory):
    """The options of a run, and its folder: it was never interrupted."""
    task, transferred = TASKS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "model.py").write_text(everything.MODEL)
    (folder / "other.py").write_text(everything.MODEL.replace("hidden", "body"))
    other = [option.replace("model.py", "other.py") for option in task]
    done = train(folder, *other, *RUN, "run.dir=first", "train.max_steps=20")
    assert done.returncode == 0, done.stderr
    options = (*task, *RUN, *everything.OPTIONS, "init.run=first", *transferred, "run.dir=run")
    done = train(folder, *options)
    assert done.returncode == 0, done.stderr
    assert "train.stop_early: the run ends after step" in done.stderr
    assert summary_of(folder)["steps"] > 60
    return options, folder


@pytest.fixture
def fresh(whole, tmp_path):
    """The folder of the same run before its start."""
    shutil.copytree(whole[1] / "first", tmp_path / "first")
    shutil.copy(whole[1] / "model.py", tmp_path)
    return tmp_path


def test_a_stopped_run_resumes_exactly_with_another_k(whole, fresh):
    options, reference = whole
    stopped = train(fresh, *options, "train.steps_per_dispatch=1", stop=StopAfter(40))
    assert stopped.returncode == 75, stopped.stderr
    done = train(fresh, *options)
    assert done.returncode == 0, done.stderr
    assert 30 < summary_of(fresh)["resumed_from_step"] < 40
    assert results(fresh) == results(reference)
    assert points_of(fresh) == points_of(reference)


@pytest.mark.parametrize("whole", ["dropout"], indirect=True)
def test_processes_that_are_killed_resume_exactly_with_the_bits_of_one(whole, fresh, trainer):
    options, reference = whole
    started = trainer.start_all(2, *options, "train.steps_per_dispatch=1")
    trainer.wait_for_step(40)
    for process in started:
        process.kill()
        process.communicate()
    for process in trainer.start_all(2, *options, "train.steps_per_dispatch=1"):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    after = summary_of(fresh)
    assert (after["processes"], after["devices"]) == (2, 2)
    assert 25 <= after["resumed_from_step"] < after["steps"]
    assert results(fresh) == results(reference)
