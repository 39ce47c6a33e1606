"""`python -m trainer laws`: check on the user's task what the trainer promises of every training.

In one process, on four simulated devices of the CPU, in about a minute. `selftest` goes further: it
kills whole runs, in several processes.
"""

import os
from collections.abc import Sequence
from typing import Any

from trainer.commands import arguments as command_line
from trainer.config.compose import compose_each
from trainer.job.errors import EXIT_COMPLETED, EXIT_INTERNAL, TrainerError, first_line
from trainer.job.files import to_json
from trainer.job.signals import StopRequest
from trainer.job.stdout import show, table
from trainer.tracking.terminal import Terminal

DESCRIPTION = """\
Checks the laws of training on a task, a few steps of it on four simulated devices of the CPU:

  gradients    the task's own `gradients` are those of jax.grad, and its bounds hold
  devices      a step on 2 and on 4 devices is the step on one, but for rounding
  dispatches   K steps in one dispatch are K dispatches of one step, bit for bit
  resume       6 steps are 3 steps, a checkpoint, and 3 steps from what was restored, bit for bit
  evaluation   every example of the test split counts once, whatever the batch size and the devices
  all-reduce   a step on several devices has one all-reduce
  shards       with parallel.virtual_shards, all bits are the same on 1, 2 and 4 devices. This is
               promised for models built from trainer.functional; others may break it
"""
EPILOG = """\
exit codes:
  0   all laws hold; or only `shards` does not, and the job does not use virtual shards
  65  bad data
  70  a law does not hold
  75  asked to stop
  78  an option or the user's module is wrong

examples:
  python -m trainer laws +experiment=mlp
  python -m trainer laws model=module model.module=digits_cnn.py optim=adamw
"""
# One thread a device: several on few cores can wait for each other's threads for ever.
FLAGS = "--xla_force_host_platform_device_count=4 --xla_cpu_multi_thread_eigen=false"


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Check the laws on the task of a job; print which hold."""
    usage = "[--json] [+experiment=NAME] [OPTION=VALUE ...]"
    parser = command_line.parser("laws", DESCRIPTION, EPILOG, usage)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = command_line.parse(parser, arguments, overrides=True)
    # Before jax starts its devices, which a user's module may do when it is imported.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
    os.environ["JAX_PLATFORMS"] = "cpu"
    (job,) = compose_each([args.overrides])
    from trainer.selftest.laws import LAWS, Laws

    terminal, findings = Terminal(), list[dict[str, Any]]()
    laws = Laws(job.config, terminal, stop)
    for number, name in enumerate(LAWS):
        stop.check("before all laws were checked")
        terminal.work(name, number, len(LAWS), "checking")
        try:
            holds, detail = True, getattr(laws, name.replace("-", "_"))()
        except TrainerError:
            raise
        except Exception as error:  # of the law, or of the user's functions on these devices
            holds, detail = False, first_line(error, kind=not isinstance(error, AssertionError))
        findings.append({"law": name, "holds": holds, "detail": detail})
    terminal.close()
    if args.json:
        show(to_json({"laws": findings}, indent=2))
    else:
        words = {True: "holds", False: "DOES NOT HOLD"}
        rows = [(one["law"], words[one["holds"]], one["detail"]) for one in findings]
        show("\n".join(table(rows, (0, 1, 2))))
    promised = {*LAWS} if job.config.parallel.virtual_shards is not None else {*LAWS} - {"shards"}
    broken = [one for one in findings if not one["holds"] and one["law"] in promised]
    return EXIT_INTERNAL if broken else EXIT_COMPLETED
