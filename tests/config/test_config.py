"""Bad configurations: code 78, one readable message, no traceback, no device touched."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from trainer import __version__
from trainer.commands import COMMANDS, train
from trainer.config import schema
from trainer.config.compose import compose, quoted
from trainer.job.errors import ConfigError
from trainer.job.signals import StopRequest
from trainer.sweep import plan

EXPERIMENTS = sorted(path.stem for path in (schema.config_dir() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment):
    (job,) = compose([f"+experiment={experiment}"])
    assert job.experiment == experiment
    assert f"+experiment={experiment}" in job.record["overrides.yaml"]
    assert OmegaConf.create(job.record["config.yaml"]).train.epochs == job.config.train.epochs


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_file_opens_with_its_command_and_what_it_reached(experiment):
    head = (schema.config_dir() / "experiment" / f"{experiment}.yaml").read_text().splitlines()[:8]
    assert head[0] == "# @package _global_"
    assert head[1] == f"# python -m trainer +experiment={experiment}"
    assert "%" in " ".join(head)


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
        ("train.steps_per_dispatch=null", "train.steps_per_dispatch=None: use a whole number"),
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


def test_several_experiments_name_their_run_directory():
    words = ["+experiment=[smoke, mlp_notebook]", "data=mnist_5k"]
    (job,) = compose(words)
    assert job.experiment == "smoke+mlp_notebook"
    assert job.config.train.epochs == 50  # of the last
    (trial, _) = plan.make([*words, "run.seed=0,1"]).jobs
    assert Path(trial.config.run.dir).parts[-3] == job.experiment


@pytest.mark.parametrize(
    "text",
    ["12e4567", "2026_11_27", "1.10", "true", "rüv d", "a=b(c)", "it's", "b\\'c", "end\\", "a,b"],
)
def test_names_and_folders_are_taken_as_they_stand(text):
    (job,) = compose([f"run.name={text}", f"run.root=/tmp/{text}"])
    assert (job.config.run.name, job.config.run.root) == (text, f"/tmp/{text}")
    (again,) = compose([f"run.name={quoted(text)}"])  # as a shell hands over what is quoted
    assert again.config.run.name == text


def test_nothing_and_variables_are_still_hydras(monkeypatch):
    monkeypatch.setenv("WHERE", "there")
    (job,) = compose(["run.name=null", "run.root=${oc.env:WHERE}/x"])
    assert (job.config.run.name, job.config.run.root) == (None, "there/x")


def test_empty_variables_are_as_good_as_none(trainer):
    done = trainer("--cfg", "job", "--resolve", TRAINER_CACHE_DIR="", TRAINER_RUN_ROOT="")
    assert "cache_dir: ~/.cache/trainer/mnist" in done.stdout
    assert "root: runs" in done.stdout


def test_the_version_is_the_trainers(trainer):
    done = trainer("--version")
    assert (done.returncode, done.stdout) == (0, f"trainer {__version__}\n")


def test_an_answer_that_cannot_be_written_is_no_bad_configuration(trainer):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "trainer", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 74
    assert "standard output cannot be written" in done.stderr


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


def test_a_misspelt_command_gets_the_nearest_one(monkeypatch):
    with pytest.raises(ConfigError, match="evalute is not a command: did you mean evaluate"):
        train.main(["+experiment=smoke", "evalute"], StopRequest())


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["train", "--help"], "python -m trainer +experiment=mlp"),
        (["--cfg", "job", "+experiment=mlp_notebook"], "loss: clipped_crossentropy"),
    ],
)
def test_help_and_cfg_print_and_train_nothing(arguments, shown, trainer, tmp_path):
    done = trainer(*arguments)
    assert done.returncode == 0
    assert shown in done.stdout
    assert not list(tmp_path.iterdir())


def test_help_names_every_command(trainer):
    done = trainer("--help")
    assert done.returncode == 0
    listed = re.findall(r"^  (\w+) .* {3,}\w.*$", done.stdout.split("Commands (")[1], re.MULTILINE)
    assert listed[: len(COMMANDS)] == list(COMMANDS)
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_says_how_it_is_called_and_how_it_ends(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    main = importlib.import_module(COMMANDS[command]).main
    try:
        code = main(["--help"], StopRequest())
    except SystemExit as ended:  # of argparse
        code = ended.code
    assert code == 0
    output = capsys.readouterr().out
    assert re.search(rf"python -m trainer (\[|{command} )", output)
    assert "exit codes:" in output.lower()
    assert re.search(r"^ +python -m trainer ", output, re.MULTILINE), "no example"
    assert max(map(len, output.splitlines())) <= 100


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("train run.dir=~nobody-here/x", "run.dir"),
        ("train data=idx data.root=~nobody-here/x", "data.root"),
        ("train train.compilation_cache_dir=~nobody-here/x", "train.compilation_cache_dir"),
        ("runs ~nobody-here/x", "DIR"),
        ("sweep ~nobody-here/x", "DIR"),
        ("verify ~nobody-here/x", "RUN"),
        ("evaluate ~nobody-here/x", "RUN"),
        ("selftest --dir ~nobody-here/x", "--dir"),
        ("doctor run.root=~nobody-here/x", "run.root"),
    ],
)
def test_a_home_directory_that_nobody_knows(trainer, command, option):
    message = f"{option}=~nobody-here/x: there is no such home directory: write the folder out"
    name, *arguments = command.split()
    if name not in ("train", "doctor"):
        with pytest.raises(ConfigError, match=re.escape(message)):
            importlib.import_module(COMMANDS[name]).main(arguments, StopRequest())
        return
    done = trainer(name, *arguments, "+experiment=smoke")
    assert message in done.stderr + done.stdout
    assert done.returncode == 78
    assert "Traceback" not in done.stderr
