"""`python -m trainer submit slurm|k8s`: checks a job here, then hands it to the scheduler."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.commands import arguments as command_line
from trainer.commands import kubernetes_job, plan
from trainer.commands.compose import Job, compose, compose_each
from trainer.errors import EXIT_COMPLETED, ConfigError, UnavailableError
from trainer.preemption import StopRequest

DESCRIPTION = """\
Checks a training job on this machine - every option, and that the batch divides over the devices
it is to get - and only then hands it to SLURM or Kubernetes.
"""
EPILOG = """\
exit codes:
  0   submitted, or shown
  69  sbatch or kubectl is missing, or refused
  78  an option of the job or of this command is wrong

examples:
  python -m trainer submit slurm --nodes 4 --gpus-per-node 8 +experiment=mlp
  python -m trainer submit slurm --nodes 2 --scheduler-option=--time=2:00:00 +experiment=mlp
  python -m trainer submit slurm --at-once 4 -m +experiment=mlp optim.lr=0.02,0.05 run.seed=0,1
  python -m trainer submit k8s --nodes 2 --gpus-per-node 8 --name first \\
      --image registry.example.com/trainer:0.1.0-cuda12 +experiment=mlp
  python -m trainer submit k8s --nodes 4 --dry-run +experiment=mlp train.epochs=20
"""
SCRIPT = Path("scripts", "slurm", "train.sbatch")


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Submit what the arguments say, or show it; return exit code 0.

    Raises:
        ConfigError: an option is wrong.
        UnavailableError: the scheduler's program is missing, or refused the job.
    """
    args = command_line.parse(_parser(), arguments, overrides=True)
    if args is None:
        return EXIT_COMPLETED
    overrides = args.overrides
    if args.multirun:
        planned = plan.make(overrides)
        jobs = compose_each([plan.arguments(planned.folder, m) for m in planned.members])
    else:
        jobs = compose(overrides)
        if len(jobs) != 1:
            raise ConfigError("submit takes one job, or a sweep with -m")
    for job in jobs:
        _check(job, args.nodes, args.gpus_per_node)
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / SCRIPT).is_file():
        raise ConfigError(
            f"{checkout} has no {SCRIPT}: submit from a checkout of the trainer, whose scripts the "
            "installed package lacks"
        )
    if args.multirun:
        if args.scheduler != "slurm":
            raise ConfigError(
                "submit k8s -m: a sweep is a job array, which only SLURM has: submit its members "
                "one by one"
            )
        _array(args, checkout, planned, overrides)
    elif args.scheduler == "slurm":
        _slurm(args, checkout, jobs[0], overrides)
    else:
        _kubernetes(args, checkout, jobs[0], overrides)
    return EXIT_COMPLETED


def _parser() -> argparse.ArgumentParser:
    usage = "slurm|k8s [options] +experiment=NAME [OPTION=VALUE ...]"
    parser = command_line.parser("submit", DESCRIPTION, EPILOG, usage)
    from_one, from_zero = command_line.at_least(1), command_line.at_least(0)
    parser.add_argument("scheduler", choices=("slurm", "k8s"))
    parser.add_argument("--nodes", type=from_one, default=1, metavar="N", help="default: 1")
    parser.add_argument(
        "--gpus-per-node", type=from_zero, default=0, metavar="G", help="default: 0, the CPUs"
    )
    parser.add_argument("--name", help="of the job (k8s: behind `train-`; default: the time)")
    parser.add_argument("--dry-run", action="store_true", help="show what would be submitted")
    slurm = parser.add_argument_group("SLURM")
    slurm.add_argument(
        "-m",
        "--multirun",
        action="store_true",
        help="a sweep, as a job array of which each task trains a member; see "
        "`python -m trainer -m --help`",
    )
    slurm.add_argument(
        "--at-once", type=from_one, metavar="N", help="tasks of the array; default: no limit"
    )
    slurm.add_argument(
        "--scheduler-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="one more option for sbatch, like --scheduler-option=--partition=gpu; repeatable",
    )
    k8s = parser.add_argument_group("Kubernetes")
    k8s.add_argument("--image", metavar="IMAGE[:TAG]", help="default: the overlay's")
    k8s.add_argument("--namespace", help="default: the overlay's")
    return parser


def _check(job: Job, nodes: int, gpus: int) -> None:
    of_node = job.config.parallel.devices or max(gpus, 1)
    if of_node > gpus > 0:
        raise ConfigError(
            f"parallel.devices={of_node}: each node is to have {gpus} GPUs: use at most {gpus}, or "
            "leave it out to use all"
        )
    devices = nodes * of_node
    size, shards = job.config.train.global_batch_size, job.config.parallel.virtual_shards
    if size % devices:
        raise ConfigError(
            f"train.global_batch_size={size} does not divide over the {devices} devices of "
            f"{nodes} nodes: use a multiple of {devices}"
        )
    if shards is not None and shards % devices:
        raise ConfigError(
            f"parallel.virtual_shards={shards}: the {devices} devices of {nodes} nodes do not "
            f"divide it: use a multiple of {devices}"
        )
    if shards is not None and size % shards:
        raise ConfigError(
            f"train.global_batch_size={size} does not divide into "
            f"parallel.virtual_shards={shards}: use a multiple of {shards}"
        )


def _sbatch(args: argparse.Namespace) -> list[str]:
    command = ["sbatch", "--parsable", f"--nodes={args.nodes}"]
    command += [f"--gpus-per-node={args.gpus_per_node}"] if args.gpus_per_node else []
    return command + ([f"--job-name={args.name}"] if args.name else [])


def _array(
    args: argparse.Namespace, checkout: Path, planned: plan.Plan, overrides: Sequence[str]
) -> None:
    count = len(planned.members)
    limit = f"%{args.at_once}" if args.at_once else ""
    command = [*_sbatch(args), f"--array=0-{count - 1}{limit}", "--output=slurm-%A_%a.out"]
    command += [*args.scheduler_option, str(checkout / SCRIPT), "-m", *overrides]
    if args.dry_run:
        print(shlex.join(command))
        return
    number = run(command).strip().partition(";")[0]  # NUMBER[;CLUSTER]
    print(
        f"submitted      SLURM job array {number}, {count} tasks\n"
        f"sweep          {planned.folder}\n"
        f"follow         python -m trainer sweep {shlex.quote(str(planned.folder))}\n"
        f"a task         tail -F slurm-{number}_0.out\n"
        f"state          squeue --jobs={number}\n"
        f"cancel         scancel {number}"
    )


def _slurm(args: argparse.Namespace, checkout: Path, job: Job, overrides: Sequence[str]) -> None:
    command = [*_sbatch(args), *args.scheduler_option, str(checkout / SCRIPT), *overrides]
    if args.dry_run:
        print(shlex.join(command))
        return
    number = run(command).strip().partition(";")[0]  # NUMBER[;CLUSTER]
    run_name, config = job.config.run.name or number, job.config.run
    where = config.dir or Path(config.root) / job.experiment / run_name
    print(
        f"submitted      SLURM job {number}\n"
        f"run            {Path(where).expanduser().absolute()}\n"
        f"follow         tail -F slurm-{number}.out\n"
        f"state          squeue --jobs={number}\n"
        f"save, go on    scancel --signal=TERM {number}\n"
        f"cancel         scancel {number}"
    )


def _kubernetes(
    args: argparse.Namespace, checkout: Path, job: Job, overrides: Sequence[str]
) -> None:
    wanted = kubernetes_job.Wanted(
        args.name, args.nodes, args.gpus_per_node, args.image, args.namespace, list(overrides)
    )
    manifest, name, namespace = kubernetes_job.render(checkout / "scripts" / "k8s", wanted, run)
    if args.dry_run:
        sys.stdout.write(manifest)
        return
    if kubernetes_job.PLACEHOLDER in manifest:
        raise ConfigError(
            "--image: the overlay names a placeholder: give your own image, as pushed to a "
            "registry, or write it into scripts/k8s/overlays"
        )
    run([kubernetes_job.kubectl(), "apply", "--filename=-"], manifest)
    label = f"batch.kubernetes.io/job-name={name}"
    where = job.config.run.dir or f"/runs/{job.experiment}/{job.config.run.name or name}"
    print(
        f"submitted      Kubernetes job {name} in namespace {namespace}\n"
        f"run            {where} on the claim trainer-runs\n"
        f"follow         kubectl -n {namespace} logs -f job/{name} --all-pods --prefix\n"
        f"state          kubectl -n {namespace} get job,pods -l {label}\n"
        f"cancel         kubectl -n {namespace} delete job/{name}"
    )


def run(command: Sequence[str], given: str = "") -> str:
    """Run a scheduler's program and return what it prints.

    Raises:
        UnavailableError: it is missing, or failed.
    """
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    except OSError as error:
        other = "" if "kustomize" in command else ", or see with --dry-run what would be submitted"
        raise UnavailableError(
            f"{command[0]}: {error.strerror}: run this where the scheduler's programs are installed"
            f"{other}"
        ) from None
    if done.returncode:
        told = (done.stderr or done.stdout).strip()
        raise UnavailableError(f"{command[0]} failed with {done.returncode}: {told}")
    return done.stdout
