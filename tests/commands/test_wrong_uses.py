"""What people get wrong in the options of training: a code, the option, its value, rule and fix."""

import pytest
from support.in_process import train
from support.trained_runs import copy

from trainer.job.errors import EXIT_CONFIG, EXIT_DATA

JOB = ("+experiment=smoke", "run.dir=run", "train.epochs=1")
PIECEWISE = "optim.schedule=piecewise"
# The options, and the message; OTHER is the folder of another run.
USES = {
    "data.validation_fraction=1": "data.validation_fraction=1.0: use a number in [0, 1)",
    "optim.momentum=1": "optim.momentum=1.0: use a number in [0, 1)",
    "optim.schedule=warmup_linear optim.warmup_fraction=1": (
        "optim.warmup_fraction=1.0: use a number in [0, 1)"
    ),
    "optim.schedule=constant optim.final_fraction=0.1": (
        "optim.final_fraction=0.1: only optim.schedule=warmup_linear or warmup_cosine or "
        "warmup_stable_decay has it: choose that, or leave it out"
    ),
    f"{PIECEWISE} optim.boundaries=[8,5] optim.factors=[0.1,0.01]": (
        "optim.boundaries=[8.0, 5.0]: use at least one epoch, in ascending order, like [5,8]"
    ),
    f"{PIECEWISE} optim.boundaries=[5,8] optim.factors=[0.1]": (
        "optim.factors=[0.1]: use as many as there are in optim.boundaries=[5.0, 8.0]"
    ),
    PIECEWISE: (
        "optim.boundaries=null: optim.schedule=piecewise needs it, like optim.boundaries=[5,8]"
    ),
    "optim.clip_norm=0": "optim.clip_norm=0.0: use a finite number above 0",
    "ema.decay=1": "ema.decay=1.0: use a number in (0, 1), like 0.999",
    "train.stop_early.patience=0": (
        "train.stop_early.patience=0: use a whole number from 1 to 2147483647"
    ),
    "train.stop_early.metric=accuracy": (
        "train.stop_early.metric=accuracy: use METRIC:max or METRIC:min, like accuracy:max"
    ),
    "train.stop_early.patience=1 train.stop_early.metric=f1:max": (
        "train.stop_early.metric=f1:max: the task has no such metric: use one of loss, accuracy"
    ),
    "checkpoint.best=f1:max": (
        "checkpoint.best=f1:max: the task has no such metric: use one of loss, accuracy"
    ),
    "train.max_seconds=0": "train.max_seconds=0.0: use a finite number above 0",
    "train.max_seconds_exit=1": (
        "train.max_seconds_exit=1: use 0, completed, or 75, to be run again"
    ),
    "train.accumulate=3": (
        "train.global_batch_size=64 does not divide into train.accumulate=3: use a multiple of 3"
    ),
    "parallel.virtual_shards=4 train.accumulate=3": (
        "train.global_batch_size=64 does not divide into parallel.virtual_shards=4 x "
        "train.accumulate=3: use a multiple of 12"
    ),
    "parallel.shard_state=half": "parallel.shard_state=half: use one of none, optimizer, all",
    "parallel.mesh.replica=1": (
        "parallel.mesh.replica=1: it needs parallel.shard_state=optimizer or all"
    ),
    "parallel.mesh.shard=2 parallel.shard_state=all": (
        "parallel.mesh.shard=2: replica times shard has to be 1, the number of devices: use "
        "numbers that are, or leave one of them out"
    ),
    "parallel.shard_state=all parallel.method=pmap": (
        "parallel.shard_state=all: parallel.method=pmap keeps the whole state on each device: "
        "leave one of them out"
    ),
    "parallel.shard_state=optimizer optim=muon": (
        "parallel.shard_state=optimizer: optim.name=muon mixes the elements of an array"
    ),
    "model.precision=tf32": (
        "model.precision=tf32: a CPU multiplies float32 and bfloat16 only: leave it at float32"
    ),
    "model=module model.module=m.py model.precision=bfloat16": (
        "model.precision=bfloat16: only model=mlp has it: choose that, or leave it out"
    ),
    "init.freeze=[*]": (
        "init.freeze=[*]: nothing is left to train: the weights are 0/kernel, 0/bias, 1/kernel, "
        "1/bias"
    ),
    "init.freeze=[0,encoder]": (
        "init.freeze=[0,encoder]: encoder matches no weights: the weights are 0/kernel, 0/bias"
    ),
    "init.step=1": "init.step=1: name the other run, too: init.run=DIR",
    "init.run=OTHER init.map=[0]": "init.map=['0']: use OTHER:THIS, like [encoder:body]",
    "init.run=OTHER init.map=[0:9]": (
        "init.map=0:9: this model has no weights 9: use OTHER:THIS, with leaves or what is above "
        "them: 0/kernel, 0/bias, 1/kernel, 1/bias"
    ),
    "init.run=OTHER init.step=7": "init.step=7: OTHER has no checkpoint of that step: use one of ",
    "init.run=empty": "init.run=empty is not a run directory: give the directory of a run, such as",
    "init.run=nowhere": "init.run=nowhere does not exist: give the directory of a run, such as",
}
BAD_DATA = ("init.run=OTHER init.step=7",)


@pytest.fixture(scope="module")
def folder(smoke_run, tmp_path_factory):
    made = tmp_path_factory.mktemp("uses")
    copy(smoke_run, made / "other")
    (made / "empty").mkdir()
    return made


@pytest.mark.parametrize("use", USES)
def test_a_wrong_use_is_named_with_its_value_its_rule_and_what_to_do(folder, use):
    def typed(text):
        return text.replace("OTHER has", f"{folder / 'other'} has").replace("OTHER ", "other ")

    done = train(folder, *JOB, *typed(use).split())
    assert done.returncode == (EXIT_DATA if use in BAD_DATA else EXIT_CONFIG), done.stderr
    *_, error = done.stderr.splitlines()
    assert error.startswith(f"error: {typed(USES[use])}")
