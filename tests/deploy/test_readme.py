"""Every command of README's "Submit it" is tried as far as a machine without a cluster can."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.manifests import BIN

from trainer.commands import arguments as arguments_of
from trainer.config.compose import compose
from trainer.doctor import command as doctor
from trainer.job.signals import StopRequest
from trainer.submit import command as submit

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text().partition("\n## Submit it\n")[2].partition("\n## ")[0]
PROGRAMS = r"(?:[A-Z_]+=\S+ )?(?:python|sbatch|kubectl|docker|source|export|scripts/\w+)"
BLOCKS = re.findall(r"(?:^    .*\n)+", SECTION, re.MULTILINE)
COMMANDS = [
    *re.findall(rf"`({PROGRAMS} [^`]+)`", SECTION),
    # Where a block shows what a command prints, a dollar marks the command.
    *(
        command
        for block in BLOCKS
        for command in re.findall(
            rf"^    {'[$] ' if '    $ ' in block else ''}({PROGRAMS} .+)$", block, re.MULTILINE
        )
    ),
]


def test_the_section_names_each_way():
    told = "\n".join(COMMANDS)
    for way in ("submit slurm", "submit k8s", "sbatch", "apply -k", "scripts/local", "doctor"):
        assert way in told
    assert "docker build" in told
    assert "docker compose" in told
    assert "scripts/_venv" in told


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_right_as_written(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TRAINER_VENV", sys.prefix)
    monkeypatch.delenv("JAX_PLATFORMS")  # of these tests; it would forbid the GPUs
    words = [word for word in shlex.split(command) if not re.match("[A-Z_]+=", word)]
    match words:
        case ["python", "-m", "trainer", "submit", *arguments]:
            assert submit.main([*arguments, "--dry-run"], StopRequest()) == 0
        case ["python", "-m", "trainer", "doctor", *arguments]:
            args = arguments_of.parse(doctor._parser(), arguments, overrides=True)
            assert compose(args.overrides)
        case ["sbatch", *options, script, experiment]:
            given = [f"--{o.partition('=')[0].strip('-')}={o.partition('=')[2]}" for o in options]
            assert submit.main(["slurm", *given, "--dry-run", experiment], StopRequest()) == 0
            assert (ROOT / script).samefile(ROOT / submit.slurm_job.SCRIPT)
        case ["kubectl", "apply", "-k", folder]:
            subprocess.run([BIN / "kubectl", "kustomize", folder], check=True, capture_output=True)
        case ["scripts/local", _, *_]:
            environ = {**os.environ, "JAX_PLATFORMS": "cpu"}
            done = subprocess.run(
                [*words, "--cfg", "job"], env=environ, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            assert "[1] cluster:" in done.stdout
        case ["docker", "build", "-f", file, "-t", "trainer", "."]:
            assert (ROOT / file).is_file()
        case ["docker", "run", *options, "trainer", experiment, name]:
            assert options == ["--rm", "-v", "runs:/runs"]
            assert compose([experiment, name])
        case ["docker", "compose", "-f", file, "up", "--build"]:
            assert (ROOT / file).is_file()
        case ["scripts/_venv", *extras]:
            text = (ROOT / "pyproject.toml").read_text()
            assert all(extra == "accelerator" or f"\n{extra} = [" in text for extra in extras)
        case ["source", ".venv/bin/activate"] | ["export"]:
            pass
        case _:
            raise AssertionError(f"no test knows how to try: {command}")
