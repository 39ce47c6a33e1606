"""The programs of the schedulers: sbatch and kubectl."""

import subprocess
from collections.abc import Sequence

from trainer.job.errors import UnavailableError


def run(command: Sequence[str], given: str = "") -> str:
    """Run a program with `given` as its standard input; return its output.

    Raises:
        UnavailableError: it is missing, or failed.
    """
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    except OSError as error:
        hint = "run this where the scheduler's programs are installed"
        raise UnavailableError(f"{command[0]}: {error.strerror}", hint) from None
    if done.returncode:
        output = (done.stderr or done.stdout).strip()
        raise UnavailableError(f"{command[0]} failed with {done.returncode}: {output}")
    return done.stdout
