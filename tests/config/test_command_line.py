"""The command line helps, shows its configuration and its version, and trains nothing for it."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trainer import __version__
from trainer.commands import COMMANDS, train
from trainer.job.errors import ConfigError
from trainer.job.signals import StopRequest


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


def test_a_misspelt_command_gets_the_nearest_one(monkeypatch):
    with pytest.raises(ConfigError, match="evalute is not a command: did you mean evaluate"):
        train.main(["+experiment=smoke", "evalute"], StopRequest())


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("fit", r"did you mean train\?"),
        ("test", r"did you mean evaluate\?"),
        ("help", r"did you mean --help\?"),
        ("resume", r".* its command again, with the same run\.name or run\.dir"),
    ],
)
def test_a_word_of_other_programs_gets_what_it_means_here(word, hint):
    with pytest.raises(ConfigError, match=f"^{word} is not a command: {hint}$"):
        train.main([word, "+experiment=smoke"], StopRequest())


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
