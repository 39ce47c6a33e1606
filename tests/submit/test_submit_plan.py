"""`submit` plans the memory of a job, and refuses what does not fit."""

import re
from pathlib import Path

import pytest
from support.program import CACHE
from support.submissions import POD

from trainer.job.errors import ConfigError
from trainer.job.signals import StopRequest
from trainer.submit import command as submit

ROOT = Path(__file__).parents[2]

FITS = ("slurm", "--gpus-per-node=8", "--dry-run", "+experiment=smoke")


@pytest.fixture
def planning(monkeypatch):
    """A child process may start: it finds the trainer, and its programs in the cache."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TRAINER_CACHE_DIR", str(CACHE))


def test_what_a_job_needs_is_shown(capsys, planning):
    sweep = ("-m", "optim.lr=0.1,0.2", "run.seed=0,1")  # one program for all four
    assert submit.main([*FITS, *sweep, "--device=H100"], StopRequest()) == 0
    out, err = capsys.readouterr()
    assert out.startswith("sbatch ")
    assert re.fullmatch(r"each device needs [\d.]+ MB, by `python -m trainer plan`\n", err)


@pytest.mark.parametrize("command", [FITS, (*POD, "--gpus-per-node=8", "--dry-run")])
def test_what_does_not_fit_is_refused(capsys, planning, command):
    with pytest.raises(ConfigError) as error:
        submit.main([*command, "--device-memory=1MB"], StopRequest())
    message = str(error.value)
    there = "and has 750 kB: JAX takes 75% of 1 MB (by default): use "
    assert re.match(r"each device needs [\d.]+ MB, " + re.escape(there), message)
    assert "parallel.shard_state=optimizer or all" in message
    assert message.endswith(", or devices with more memory")
    assert not capsys.readouterr().out


def test_what_is_not_known_here_is_a_warning(capsys, planning):
    away = ("data=arrays", "data.root=/not/here")
    assert submit.main([*FITS, *away, "--device=H100"], StopRequest()) == 0
    out, err = capsys.readouterr()
    assert out.startswith("sbatch ")
    assert "warning: how much memory the job needs is not known: " in err
    assert "/not/here" in err
