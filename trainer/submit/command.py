"""`python -m trainer submit slurm|k8s`: check a job here, then hand it to the scheduler."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from trainer.config.compose import Job, compose, compose_each
from trainer.distributed import topology
from trainer.job.directory import expanded
from trainer.job.errors import EXIT_COMPLETED, ConfigError, UnavailableError
from trainer.job.signals import StopRequest
from trainer.job.stdout import show
from trainer.submit import kubernetes, options, slurm
from trainer.sweep import plan
from trainer.tracking.terminal import Terminal

DRY_RUN = ", or add --dry-run to see what would be submitted"
KINDS = {"slurm": "slurm", "k8s": "kubernetes"}  # of cluster.kind


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Submit a job or a sweep, or show the command; return exit code 0.

    Raises:
        TrainerError: with the exit codes that --help lists.
    """
    args = options.read(arguments)
    if args is None:
        return EXIT_COMPLETED
    overrides = args.overrides
    if args.multirun:
        planned = plan.make(overrides)
        jobs = planned.jobs
    else:
        jobs = compose(overrides)
        if len(jobs) != 1:
            raise ConfigError("submit takes one job, or a sweep with -m")
    for job in jobs:
        _check(job, args)
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / slurm.SCRIPT).is_file():
        raise ConfigError(
            f"{checkout} has no {slurm.SCRIPT}: the installed package has no scripts",
            "submit from a checkout of the trainer",
        )
    if args.scheduler == "k8s":
        _kubernetes(args, checkout)
        return EXIT_COMPLETED
    slurm.check_environment(checkout, os.environ)
    for root in {job.config.data.root for job in jobs} - {None}:
        if not expanded(str(root), "data.root").is_dir():
            Terminal().warn(
                f"data.root={root} does not exist here: make sure it exists on the compute nodes"
            )
    if args.multirun:
        _array(args, checkout, planned)
    else:
        _slurm(args, checkout, jobs[0])
    return EXIT_COMPLETED


def _check(job: Job, args: argparse.Namespace) -> None:
    """Check a job against the processes and devices that it will get."""
    from trainer.parallel.mesh import check_division, check_method

    cluster, devices = job.config.cluster, job.config.parallel.devices
    processes = args.nodes * args.tasks_per_node
    kinds = ("auto", KINDS[args.scheduler], *(("single",) if processes == 1 else ()))
    if cluster.kind not in kinds:
        message = f"cluster={cluster.kind}: {args.scheduler} will start {processes} processes"
        raise ConfigError(message, "leave it out")
    for name in topology.OPTIONS:
        if (value := getattr(cluster, name)) is not None:
            message = f"cluster.{name}={value}: {args.scheduler} numbers the processes"
            raise ConfigError(message, "leave it out")
    gpus = args.gpus_per_node // args.tasks_per_node
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if args.scheduler == "slurm" and gpus and platforms.partition(",")[0] == "cpu":
        raise ConfigError(
            f"JAX_PLATFORMS={platforms}: the job would inherit this variable and not use its GPUs",
            "unset it",
        )
    if cluster.gpus_per_process not in (None, gpus):
        raise ConfigError(
            f"cluster.gpus_per_process={cluster.gpus_per_process}: each process will have {gpus} "
            "GPUs (--gpus-per-node)",
            "leave it out",
        )
    if devices and devices > gpus > 0:
        raise ConfigError(
            f"parallel.devices={devices}: each process will have {gpus} GPUs",
            f"use at most {gpus}, or leave it out to use all",
        )
    check_method(job.config.parallel.method, processes)
    total = processes * (devices or max(gpus, 1))
    check_division(total, job.config.train.global_batch_size, job.config.parallel.virtual_shards)


def _array(args: argparse.Namespace, checkout: Path, planned: plan.Plan) -> None:
    count = len(planned.trials)
    limit = f"%{args.at_once}" if args.at_once else ""
    own = [f"--array=0-{count - 1}{limit}", "--output=slurm-%A_%a.out"]
    number = _sbatch(args, [*slurm.command(args, checkout, own), "-m", *args.overrides])
    if number:
        show(
            f"submitted      SLURM job array {number}, {count} tasks\n"
            f"sweep          {planned.folder}\n"
            f"follow         python -m trainer sweep {shlex.quote(str(planned.folder))}\n"
            f"a task         tail -F {slurm.log(args, number)}\n"
            f"state          squeue --jobs={number}\n"
            f"cancel         scancel {number}"
        )


def _slurm(args: argparse.Namespace, checkout: Path, job: Job) -> None:
    number = _sbatch(args, [*slurm.command(args, checkout, []), *args.overrides])
    if number:
        config = job.config.run
        where = config.dir or Path(config.root) / job.experiment / (config.name or number)
        show(
            f"submitted      SLURM job {number}\n"
            f"run            {expanded(where, 'run.dir').absolute()}\n"
            f"follow         tail -F {slurm.log(args, number)}\n"
            f"state          squeue --jobs={number}\n"
            f"save, requeue  scancel --signal=TERM {number}\n"
            f"cancel         scancel {number}"
        )


def _sbatch(args: argparse.Namespace, command: Sequence[str]) -> str:
    """Run sbatch and return the number of the job; with --dry-run, show the command, return ""."""
    if args.dry_run:
        show(shlex.join(command))
        return ""
    return run(command, instead=DRY_RUN).strip().partition(";")[0]  # NUMBER[;CLUSTER]


def _kubernetes(args: argparse.Namespace, checkout: Path) -> None:
    wanted = kubernetes.Wanted(
        args.name, args.nodes, args.gpus_per_node, args.image, args.namespace, args.overrides
    )
    rendered = kubernetes.render(checkout / "scripts" / "k8s", wanted, run)
    name, namespace = rendered.name, rendered.namespace
    (job,) = compose_each([rendered.arguments])
    where, claim = kubernetes.run_directory(job.config.run, job.experiment, rendered)
    if job.config.data.root and not kubernetes.volume_of(job.config.data.root, rendered):
        Terminal().warn(
            f"data.root={job.config.data.root} is on no volume of the pods: the image must hold it"
        )
    if args.dry_run:
        show(rendered.text.rstrip("\n"))
        return
    answer = run([kubernetes.kubectl(), "apply", "--filename=-"], rendered.text, instead=DRY_RUN)
    own = f"kubectl -n {namespace} delete job,service,networkpolicy {name}"
    if f"job.batch/{name} created" not in answer.splitlines():
        raise ConfigError(
            f"--name: there is a job {name} in namespace {namespace} already; nothing was started",
            f"to resume its run, delete it and submit again: {own}",
        )
    label = f"batch.kubernetes.io/job-name={name}"
    show(
        f"submitted      Kubernetes job {name} in namespace {namespace}\n"
        f"run            {where} on the claim {claim}\n"
        f"follow         kubectl -n {namespace} logs -f job/{name} --all-pods --prefix\n"
        f"state          kubectl -n {namespace} get job,pods -l {label}\n"
        f"cancel         {own}"
    )


def run(command: Sequence[str], given: str = "", instead: str = "") -> str:
    """Run a program of the scheduler and return its output.

    Args:
        command: the program and its arguments.
        given: its standard input.
        instead: added to the hint where the program is missing.

    Raises:
        UnavailableError: it is missing, or failed.
    """
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UnavailableError(
            f"{command[0]}: {error.strerror}: run this where the scheduler's programs are installed"
            f"{instead}"
        ) from None
    if done.returncode:
        output = (done.stderr or done.stdout).strip()
        raise UnavailableError(f"{command[0]} failed with {done.returncode}: {output}")
    return done.stdout
