"""The fingerprint: old runs resume, and another training is another fingerprint."""

import pytest

from trainer.config.compose import compose
from trainer.config.fingerprint import differences, fingerprint

DATA = {"name": "mnist", "train_examples": 60000, "test_examples": 10000, "sha256": "c65580"}
# As checkpoints kept it before there were other models, data sets and optimizers.
OLD = {
    "run.seed": 0,
    "run.legacy_prng": False,
    "data.num_classes": 10,
    "data.shuffle": True,
    "data.pixel_mean": 33.318421,
    "data.pixel_std": 78.56749,
    "model": {
        "name": "mlp",
        "hidden_sizes": [512, 512],
        "kernel_initializer": "he_normal",
        "pixels": "standardized",
        "loss": "softmax_crossentropy",
        "precision": "float32",
    },
    "optim": {
        "name": "sgd",
        "lr": 0.05,
        "momentum": 0.9,
        "nesterov": True,
        "schedule": "warmup_linear",
        "warmup_fraction": 0.1,
    },
    "train.global_batch_size": 64,
    "parallel.virtual_shards": None,
    "train.epochs": 10,
    "data set": DATA,
}


def of(*arguments):
    (job,) = compose(["+experiment=mlp", "data.validation_fraction=0", *arguments])
    return fingerprint(job.config, DATA)


def test_the_fingerprint_of_the_main_job_is_that_of_old_checkpoints():
    assert of() == OLD
    assert differences(OLD, of()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["optim.clip_norm=1"], "optim.clip_norm: None in the checkpoint, 1.0 in this"),
        (["optim.lr=0.1"], "optim.lr: 0.05 in the checkpoint, 0.1 in this configuration"),
        (["optim=adam"], "optim.name: sgd in the checkpoint, adam in this configuration"),
        (["optim=adam"], "optim.momentum: 0.9 in the checkpoint, None in this configuration"),
        (["train.accumulate=2"], "train.accumulate: 1 in the checkpoint, 2 in this"),
        (["ema.decay=0.99"], "ema.decay: None in the checkpoint, 0.99 in this configuration"),
        (["augment.flip=true"], "augment.flip: False in the checkpoint, True in this"),
        (["augment.shift=2"], "augment.shift: None in the checkpoint, 2 in this configuration"),
        (["model.remat=2"], "model.remat: None in the checkpoint, 2 in this configuration"),
        (["train.limit_steps=9"], "train.limit_steps: None in the checkpoint, 9 in this"),
        (["train.epochs=9"], "train.epochs: 10 in the checkpoint, 9 in this configuration"),
    ],
)
def test_an_option_that_changes_the_training_is_a_difference(arguments, line):
    assert any(each.startswith(line) for each in differences(OLD, of(*arguments)))


@pytest.mark.parametrize(
    "argument",
    [
        "checkpoint.best=loss:min",
        "ema.evaluate=false",
        "train.max_steps=100",
        "train.max_seconds=100",
        "train.stop_early.patience=2",
        "train.log_gradient_norm=true",
        "train.steps_per_dispatch=7",
        "data.root=/elsewhere",
        "run.name=x",
    ],
)
def test_an_option_that_does_not_is_none(argument):
    assert of(argument) == OLD


def test_the_options_of_an_optimizer_are_in_it():
    one, other = of("optim=adamw"), of("optim=adamw", "optim.options.weight_decay=0.1")
    assert one["optim"]["options"] == {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.01}
    assert differences(one, other) == [
        "optim.options.weight_decay: 0.01 in the checkpoint, 0.1 in this configuration"
    ]
