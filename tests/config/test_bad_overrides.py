"""Bad options: code 78, one message that names the option and the fix, no device touched."""

import importlib

import pytest

from trainer.commands import COMMANDS
from trainer.config.compose import compose
from trainer.job.errors import ConfigError
from trainer.job.signals import StopRequest


@pytest.mark.parametrize(
    ("override", "output"),
    [
        ("optim.lrr=1", "optim.lrr is not an option: did you mean optim.lr?"),
        ("trian.epochs=3", "did you mean train.epochs?"),
        ("+foo=1", "foo is not an option"),
        ("+optim.bogus=1", "optim.bogus is not an option"),
        ("dat=mnist", "did you mean data?"),
        ("experiment=mlp", "experiment is added with a plus: +experiment=mlp"),
        ("batch_size=8", "did you mean train.global_batch_size or train.eval_batch_size?"),
        ("train.batch_size=8", "did you mean train.global_batch_size or train.eval_batch_size?"),
        ("epochs=5", "did you mean train.epochs?"),
        ("num_epochs=5", "did you mean train.epochs?"),
        ("lr=0.1", "lr is not an option: did you mean optim.lr?"),
        ("learning_rate=0.1", "did you mean optim.lr?"),
        ("seed=1", "did you mean run.seed?"),
        ("run.resume=true", "run.resume is not an option: a run resumes when you give its command"),
        ("device=cpu", "JAX_PLATFORMS=cpu"),
        ("devices=2", "did you mean parallel.devices?"),
        ("hidden_size=8", "did you mean model.hidden_sizes?"),
        ("+model.dropout=0.1", "model.dropout is not an option"),
        ("optim.lr=0.1,0.2", "-m"),
        ("+experiment=nope", "mlp_notebook"),
        ("model=nope", "model=nope: there is no such file"),
        ("optim.lr=abc", "optim.lr"),
        ("train.epochs=1.5", "train.epochs"),
        ("run.seed=null", "run.seed"),
        ("optim.lr=[", "optim.lr=["),
        ("~optim.lr", "optim.lr"),
        ("optim.lr=???", "optim.lr"),
        ("optim.lr=${nope}", "nope"),
        ("optim.lr=-0.1", "optim.lr=-0.1: use a finite number above 0"),
        ("optim.lr=0", "optim.lr"),
        ("optim.lr=nan", "optim.lr"),
        ("optim.lr=inf", "optim.lr"),
        (
            "train.epochs=99999999999999999999",
            "99999999999999999999: use a whole number",
        ),
        ("model.hidden_sizes=[99999999999999999999]", "model.hidden_sizes=[99999999999999999999]"),
        ("train.steps_per_dispatch=99999999999", "train.steps_per_dispatch=99999999999"),
        ("run.dir=a\udcff", "run.dir=a\udcff: name a folder, in UTF-8"),
        ("optim.lr=1e39", "optim.lr=1e+39: use a finite number above 0, at most 3.402823e+38"),
        ("data.mirrors=[ftp://host/]", "data.mirrors[0]=ftp://host/: use a URL that begins"),
        ("data.mirrors=['file:///etc']", "data.mirrors[0]=file:///etc: use a URL"),
        ("data.mirrors=[host/folder]", "data.mirrors[0]=host/folder: use a URL"),
        ("optim.momentum=0", "optim.nesterov=True: needs optim.momentum above 0"),
        ("init.map=[a]", "init.map=['a']: use OTHER:THIS, like [encoder:body]"),
        ("train.accumulate=0", "train.accumulate=0: use a whole number from 1"),
        ("augment.mixup=0", "augment.mixup=0.0: use a number in (0, 10], like 0.2"),
        ("augment.shift=0", "augment.shift=0: use a whole number from 1 to 2147483647"),
        ("model.remat=1", "model.remat=1: use a whole number from 2 to 2147483647"),
        ("train.max_steps=0", "train.max_steps=0: use a whole number from 1"),
        ("train.stop_early.min_delta=-1", "train.stop_early.min_delta=-1.0: use a finite number"),
        ("train.stop_early.patiense=1", "train.stop_early.patiense is not an option"),
        ("train.limit_steps=0", "train.limit_steps=0: use a whole number from 1"),
        ("train.overfit_batches=0", "train.overfit_batches=0: use a whole number from 1"),
        ("optim.schedule=step", "constant, piecewise, warmup_linear"),
        ("optim.warmup_fraction=1", "optim.warmup_fraction"),
        ("train.epochs=0", "train.epochs=0: use a whole number from 1 to 2147483647"),
        ("train.steps_per_dispatch=0", "train.steps_per_dispatch=0"),
        ("ema=0.99", "ema is a section: use ema.decay, ema.evaluate"),
        ("train.steps_per_dispatch=null", "train.steps_per_dispatch=null: use a whole number"),
        ("train.global_batch_size=-8", "train.global_batch_size=-8"),
        ("model.hidden_sizes=[]", "model.hidden_sizes=[]"),
        ("model.hidden_sizes=[5,0]", "model.hidden_sizes=[5, 0]"),
        ("model.loss=mse", "model.loss=mse"),
        ("parallel.method=ddp", "shard_map, pmap"),
        ("run.seed=-1", "run.seed=-1"),
        ("run.name=a/b", "run.name=a/b"),
        ("run.name=x\r", "invisible characters"),
        ("run.name='x '", "outer spaces"),
        ("mlp", "mlp is neither a command nor OPTION=VALUE: `python -m trainer --help` lists them"),
        ("data=idx", "data.root=DIR"),
        ("data=mnst", "did you mean mnist?"),
        ("+experiment=mpl", "did you mean mlp?"),
        ("optim.lr=abc", "optim.lr=abc: use a number"),
        ("optim.lr=null", "optim.lr=null: it needs a value"),
        ("train.epochs=1.5", "train.epochs=1.5: use a whole number"),
        ("train.deterministic=yep", "train.deterministic=yep: use true or false"),
        ("model.hidden_sizes=5", "model.hidden_sizes=5: use a list"),
        ("data.name=cifar", "data.name=cifar"),
        ("checkpoint.keep_last=0", "checkpoint.keep_last=0"),
        ("cluster.heartbeat_timeout_seconds=1", "cluster.heartbeat_timeout_seconds=1"),
    ],
)
def test_a_bad_override_is_named(override, output):
    for flags in ([], ["--cfg", "job"]):
        with pytest.raises(ConfigError) as raised:
            compose([override, *flags])
        assert output in str(raised.value)
        assert raised.value.exit_code == 78
        if "=" not in override:
            break


@pytest.mark.parametrize("name", ["train", "-m", "doctor", "laws", "plan", "submit"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "5"], "--epochs is not an option: did you mean train.epochs=5?"),
        (["--lr=0.1"], "--lr=0.1 is not an option: did you mean optim.lr=0.1?"),
        (["--batch-size", "8"], "train.global_batch_size=8 or train.eval_batch_size=8?"),
        (["--seed"], "did you mean run.seed=VALUE?"),
        (["epochs=5"], "epochs is not an option: did you mean train.epochs?"),
        (["+model.dropout=0.1"], "model.dropout is not an option"),
        (["model.hidden_sizes=[8,", "8]"], "model.hidden_sizes=[8, cannot be read"),
    ],
)
def test_all_commands_that_compose_a_job_refuse_the_same(name, words, message):
    module, function = (COMMANDS["sweep"], "multirun") if name == "-m" else (None, "main")
    main = getattr(importlib.import_module(module or COMMANDS[name]), function)
    before = {"submit": ["slurm", "--dry-run"], "-m": ["-m", "run.seed=0,1"]}.get(name, [])
    with pytest.raises(ConfigError) as raised:
        main([*before, "+experiment=smoke", *words], StopRequest())
    assert message in str(raised.value)
    assert "Hydra" not in str(raised.value)


def test_a_value_that_the_shell_has_split_is_shown_in_its_parts():
    with pytest.raises(ConfigError) as raised:
        compose(["+experiment=smoke", "model.hidden_sizes=[512,", "512]"])
    message = str(raised.value)
    assert message.count("no viable alternative at input") == 1
    assert "\n  the words of the command: +experiment=smoke 'model.hidden_sizes=[512,'" in message
    assert "in quotes: 'OPTION=VALUE'" in message


@pytest.mark.parametrize("address", ["https://me:s3cret@host/b", "ftp://me:s3cret@host"])
def test_credentials_in_an_address_are_refused_and_not_repeated(address):
    with pytest.raises(ConfigError, match=r"data\.mirrors\[1\] contains credentials") as raised:
        compose([f"data.mirrors=['https://host/a','{address}']"])
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    "arguments", [["optim.lr=-1"], ["evalute"], ["--bogus"], ["optim.lrr=1"], ["optim.lr=["]]
)
def test_the_command_line_ends_with_78_and_no_traceback(arguments, trainer, tmp_path):
    done = trainer("+experiment=mlp", *arguments)
    assert done.returncode == 78
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_batch_that_does_not_divide_over_the_devices_is_refused(trainer, tmp_path):
    done = trainer(
        "+experiment=smoke",
        "train.global_batch_size=100",
        devices=8,
    )
    assert done.returncode == 78
    expected = "train.global_batch_size=100 does not divide over 8 devices: use a multiple of 8"
    assert done.stderr == f"error: {expected}\n"
    assert not list(tmp_path.iterdir())
