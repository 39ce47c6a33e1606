"""`python -m trainer +experiment=mlp` trains; `python -m trainer COMMAND ...` runs a command."""

from __future__ import annotations

import sys

from trainer.errors import TrainerError
from trainer.preemption import StopRequest


def main() -> None:
    """Run what the command line says and exit with a documented code."""
    stop = StopRequest()
    stop.install()  # before the imports below, which take a second
    try:
        from trainer.commands import train

        sys.exit(train.main(sys.argv[1:], stop))
    except TrainerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
