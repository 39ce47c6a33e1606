"""Calls `submit` in this process, with stand-ins for schedulers that are out of reach."""

import re

from trainer.job.signals import StopRequest
from trainer.submit import command as submit

POD = ("k8s", "--name", "a", "--image", "registry.internal/t:1", "+experiment=mlp")


def main(*arguments):
    return submit.main([*arguments, "--no-plan"], StopRequest())


def shown(capsys, *arguments):
    assert main(*arguments, "--dry-run") == 0
    return capsys.readouterr().out


def stand_in(folder, name, script):
    """Make a program that notes its arguments and its input, for a scheduler out of reach."""
    (folder / name).write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >{folder}/arguments\n{script}\n")
    (folder / name).chmod(0o755)


def told_of(capsys, *arguments):
    assert main(*arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines)
