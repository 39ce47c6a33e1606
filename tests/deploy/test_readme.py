"""Every command of README.md and docs/reference.md is tried as far as a laptop can."""

import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from support.drawn_digits import draw
from support.manifests import BIN

from trainer.commands import COMMANDS
from trainer.config.compose import compose
from trainer.data.dataset import Dataset
from trainer.formats import idx
from trainer.job.errors import ConfigError
from trainer.job.signals import StopRequest
from trainer.submit import command as submit
from trainer.submit import slurm
from trainer.sweep.command import multirun
from trainer.tasks.make import make as make_task

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
PROGRAM = (
    r"(?:[A-Z_]+=\S+ )*"
    r"(?:(?:(?:\.venv/bin/)?python|sbatch|kubectl|docker|source|export) [^`\n]+"
    r"|(?:\./)?scripts/\w+(?: [^`\n]+)?)"
)


def commands(text: str) -> list[str]:
    """Return the commands in a document: whole code spans, and lines of indented blocks."""
    result = re.findall(f"`({PROGRAM})`", text)
    for block in re.findall(r"(?:^    .*\n)+", text, re.MULTILINE):
        dollar = "[$] " if "    $ " in block else ""  # the other lines are what is printed
        result += re.findall(rf"^    {dollar}({PROGRAM})$", block, re.MULTILINE)
    return result


SHOWN = list(dict.fromkeys(commands(README) + commands(REFERENCE)))


def test_the_readme_is_short_and_shows_each_way():
    assert len(README.splitlines()) <= 220
    shown = "\n".join(commands(README))
    for way in (
        *("scripts/train", "scripts/test", "scripts/_venv", "trainer local", "trainer dashboard"),
        *(
            "trainer new",
            "trainer laws",
            "model=module",
            "docker build",
            "docker compose",
            "submit slurm",
            "submit k8s",
            "doctor",
            "selftest",
        ),
        *("runs", "evaluate", "predict", "export", "verify", "sweep", "trainer -m"),
    ):
        assert way in shown, way


@pytest.mark.parametrize("command", SHOWN)
def test_a_command_is_right_as_written(command, monkeypatch, tmp_path, request):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TRAINER_VENV", sys.prefix)
    monkeypatch.setenv("TRAINER_RUN_ROOT", str(tmp_path))
    monkeypatch.delenv("JAX_PLATFORMS")  # of these tests; it would forbid the GPUs
    words = shlex.split(command.partition(" | ")[0], comments=True)
    while re.match("[A-Z_]+=", words[0]):
        del words[0]
    match words:
        case ["python", "-m", "trainer", "local", *_]:  # it handles signals, in this process too
            environ = {**os.environ, "JAX_PLATFORMS": "cpu"}
            done = subprocess.run(
                [sys.executable, *words[1:], "--cfg", "job"],
                env=environ,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            assert "[1] cluster:" in done.stdout
        case ["python" | ".venv/bin/python", "-m", "trainer", *arguments]:
            run(arguments, tmp_path, request)
        case ["sbatch", *options, script, experiment]:
            given = [f"--{o.partition('=')[0].strip('-')}={o.partition('=')[2]}" for o in options]
            words = ["slurm", *given, "--dry-run", "--no-plan", experiment]
            assert submit.main(words, StopRequest()) == 0
            assert (ROOT / script).samefile(ROOT / slurm.SCRIPT)
        case ["kubectl", "apply", "-k", folder]:
            subprocess.run([BIN / "kubectl", "kustomize", folder], check=True, capture_output=True)
        case ["./scripts/train", *overrides]:
            assert compose(["+experiment=mlp", *overrides])
            assert os.access(ROOT / words[0], os.X_OK)
        case ["docker", "build", "-f", file, "-t", "trainer", "."]:
            assert (ROOT / file).is_file()
        case ["docker", "run", *options, "trainer", experiment, name]:
            assert options == ["--rm", "-v", "runs:/runs"]
            assert compose([experiment, name])
        case ["docker", "compose", "-f", file, "up", "--build"]:
            assert (ROOT / file).is_file()
        case ["scripts/_venv", *extras]:
            text = (ROOT / "pyproject.toml").read_text()
            known = {"accelerator", "--help"}
            assert all(extra in known or f"\n{extra} = [" in text for extra in extras)
        case [script] | [script, "--quick"] if (ROOT / script).is_file():
            assert os.access(ROOT / script, os.X_OK)
        case ["source", ".venv/bin/activate"] | ["export", _] | [_, "-m", "hatchling", "build"]:
            pass
        case _:
            raise AssertionError(f"no test knows how to try: {command}")


def run(arguments, tmp_path, request):
    """Run a command of the trainer, with a small run in place of the one that it names.

    What would train for long is only composed, what would be submitted is only shown.
    """
    command = arguments[0] if arguments and arguments[0] in COMMANDS else "train"
    arguments = arguments[command != "train" :]
    if "model.module=digits.py" in arguments:
        own = tmp_path / "digits.py"
        own.write_text(block_of(README))
        arguments = [w.replace("digits.py", str(own)) for w in arguments]
    match command, arguments:
        case "train", ["--help"]:
            pass
        case "train", ["-m", *overrides]:
            assert multirun(["-m", "--members", *overrides], StopRequest()) == 0
            return
        case "train", _:
            typed = re.escape(f"$ python -m trainer {' '.join(arguments)}")
            error = re.search(rf"{typed}\n    error: (.*)", README)
            if not error:
                assert compose(arguments)
                return
            with pytest.raises(ConfigError) as raised:
                compose(arguments)
            assert str(raised.value) == error[1]
            return
        case "doctor", _:
            assert compose([word for word in arguments if word != "--download"])
            return
        case "plan", [*_, experiment]:  # for more devices than this process has
            assert compose([experiment])
            return
        case "submit", _:
            arguments = [*arguments, "--dry-run", "--no-plan"]
        case "laws", _:
            (job,) = compose(arguments)
            config, chance = job.config, np.random.default_rng(0)
            images = chance.integers(0, 256, (2, 28, 28), np.uint8)
            example = {"image": images, "label": np.zeros(2, np.uint8)}
            dataset = Dataset("digits", example, example)
            task, _ = make_task(config.model, config.data, dataset)
            assert task.metric_names == ("accuracy",)
            return
        case ("selftest", []) | ("sweep", ["DIR"]) | ("dashboard", _):
            return
        case "new", ["DIR"]:
            arguments = [str(tmp_path / "new")]
        case "runs", []:
            arguments = [str(request.getfixturevalue("smoke_run"))]
        case "predict" | "evaluate" | "export" | "verify", [_, *rest]:
            for name in (name for name in rest if name.endswith((".png", ".jpg"))):
                draw(7).save(tmp_path / name)
            arguments = [str(request.getfixturevalue("smoke_run"))]
            arguments += [str(tmp_path / name) for name in rest]
    assert import_module(COMMANDS[command]).main(arguments, StopRequest()) == 0


def block_of(text):
    """Return the Python code in a document."""
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return block


def test_your_own_images_as_the_reference_writes_them(tmp_path):
    block = block_of(REFERENCE)
    chance = np.random.default_rng(0)
    arrays = {
        f"{split}_{kind}": chance.integers(0, 10, shape, np.uint8)
        for split in ("train", "test")
        for kind, shape in (("images", (20, 9, 7)), ("labels", (20,)))
    }
    exec(block, {**arrays, "folder": tmp_path})
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = idx.read_images(tmp_path / f"{prefix}-images-idx3-ubyte")
        labels = idx.read_labels(tmp_path / f"{prefix}-labels-idx1-ubyte", 10)
        np.testing.assert_array_equal(images, arrays[f"{split}_images"])
        np.testing.assert_array_equal(labels, arrays[f"{split}_labels"])
