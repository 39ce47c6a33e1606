"""All checks in their order: first of each process alone, then of all together."""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NoReturn

from jax.sharding import Mesh

from trainer.config.schema import Config
from trainer.data.dataset import Dataset
from trainer.data.report import Report
from trainer.distributed.collectives import is_peer_loss, share, together
from trainer.distributed.connect import connect, start_devices
from trainer.distributed.heartbeat import Heartbeat
from trainer.distributed.topology import Topology, resolve
from trainer.doctor import checks
from trainer.doctor.finding import FAILURE, OK, Concern, Finding, exit_code, from_error, merge
from trainer.formats.download import Missing
from trainer.job.directory import expanded
from trainer.job.errors import PeerLost, TrainerError
from trainer.job.exit import hard_exit, time_limit
from trainer.job.signals import StopRequest
from trainer.parallel.mesh import make_mesh
from trainer.sources import load as data_sets
from trainer.tracking import summary
from trainer.tracking.terminal import Terminal


class Examination:
    """The findings so far; they are shown whatever happens.

    In the end process 0 shows those of all processes. But a process on which a check failed alone
    exits at once, because it would miss the next collective. The others notice that it is lost, and
    each of them shows its own.
    """

    def __init__(
        self,
        config: Config,  # of the job
        download: bool,  # missing data, where the job would do so when it starts
        stop: StopRequest,
        show: Callable[[Sequence[Finding]], None],
    ) -> None:
        self._config, self._download, self._stop, self._show = config, download, stop, show
        self._findings: list[Finding] = []
        self._topology: Topology
        self._heartbeat: Heartbeat
        self._can_share = False  # collectives need the devices of all processes
        self._mesh: Mesh
        self._dataset: Dataset | None = None
        self._exiting = threading.Lock()

    def run(self) -> int:
        """Do all checks; return the exit code."""
        config = self._config
        option = "run.dir" if config.run.dir is not None else "run.root"
        root = expanded(config.run.dir or config.run.root, option).absolute()
        self._check("versions", checks.versions)
        known = self._check("topology", self._resolve) is None
        self._check("compilation cache", partial(checks.compilation_cache, config))
        self._check("free space", partial(checks.free_space, root))
        if not known or self._check("meeting", self._meet) is not None:
            self._show(self._findings)
            return exit_code(self._findings)
        is_chief = self._topology.process_id == 0
        seconds = config.cluster.heartbeat_timeout_seconds
        with Heartbeat(seconds, partial(self._exit, "end")) as self._heartbeat:
            self._check_together("devices", self._start_devices)
            has_mesh = self._check_together("mesh", self._make_mesh)
            divides = has_mesh and self._check_together(
                "batch", lambda: checks.batch(config, self._mesh)
            )
            self._check_together("run directory", partial(checks.run_directory, root, is_chief))
            self._check_together("data", self._load)
            self._check_together("clocks", checks.clocks)
            if has_mesh:
                self._check_together("all-reduce", lambda: checks.all_reduce(self._mesh))
            if divides:
                self._check_together("one step", self._do_one_step)
            self._check_together("end", self._gather)
            if is_chief:
                self._show(self._findings)
            return exit_code(self._findings)

    def _resolve(self) -> str:
        self._topology = topology = resolve(self._config.cluster, os.environ)
        process = f"process {topology.process_id} of {topology.num_processes}"
        return f"{process} ({topology.kind}): {topology.evidence}"

    def _meet(self) -> str:
        topology = self._topology
        poll = partial(self._stop.check, "while waiting for the other processes")
        connect(topology, self._config.cluster, poll, partial(self._exit, "meeting"))
        self._stop.install()
        if topology.num_processes == 1:
            return "one process: nobody to meet"
        return f"{topology.num_processes} processes at {topology.host}"

    def _start_devices(self) -> str:
        start_devices(self._topology, self._config.cluster, partial(self._exit, "devices"))
        self._can_share = True
        return checks.visible_devices(self._topology)

    def _make_mesh(self) -> str:
        parallel = self._config.parallel
        shape = (parallel.mesh.replica, parallel.mesh.shard)
        self._mesh = together(lambda: make_mesh(parallel.devices, *shape))
        axes = [f"{name} {size}" for name, size in self._mesh.shape.items()]
        return f"{self._mesh.size} devices: {', '.join(axes)}"

    def _load(self) -> str:
        data, quiet = self._config.data, Terminal(quiet=True)
        poll = partial(self._stop.check, "during the download of the data set")
        here = replace(data, download=data.download and self._download)
        try:
            dataset = data_sets.load(here, Report(quiet.download, poll, quiet.warn))
        except Missing:
            if self._download or not data.download:
                raise
            hint = "run doctor with --download, on one host of a shared data.cache_dir"
            raise Concern("files are missing: the first start downloads them", hint) from None
        self._dataset = dataset
        counts = summary.counts(summary.describe(dataset))
        return f"{dataset.name}: {counts}, sha256 {dataset.sha256[:16]}"

    def _do_one_step(self) -> str:
        everywhere = all(share(lambda: self._dataset is not None))
        return checks.one_step(self._config, self._dataset if everywhere else None, self._mesh)

    def _gather(self) -> str:
        of_processes = share(lambda: self._findings)
        self._findings = merge([Finding(*finding) for finding in own] for own in of_processes)
        return "all checks are done"

    def _check(self, check: str, look: Callable[[], str]) -> Exception | None:
        """Do a check, and add its finding; return the error if it failed."""
        try:
            finding, error = Finding(check, OK, look()), None
        except Exception as raised:  # a check may meet anything: that is what it is for
            finding, error = from_error(check, raised), raised
        self._findings.append(finding)
        return error if finding.level == FAILURE else None

    def _check_together(self, check: str, look: Callable[[], str]) -> bool:
        """Do a check in which processes wait for each other, for a limited time.

        Returns whether it succeeded. Exits after a failure that the others may not have had.
        """
        seconds = self._config.cluster.hang_timeout_seconds
        message = f"no end within cluster.hang_timeout_seconds={seconds:g}"
        with time_limit(seconds, lambda: self._exit(check, message)):
            error = self._check(check, look)
        if error is None or self._topology.num_processes == 1:
            return error is None
        # After a TrainerError all continue: all have it, or their next collective tells them.
        if self._can_share and isinstance(error, TrainerError) and not isinstance(error, PeerLost):
            return False
        if is_peer_loss(error):
            self._exit("end", f"lost {self._heartbeat.find_lost()}")
        self._exit()

    def _exit(self, check: str = "", message: str = "") -> NoReturn:
        """Exit, from any thread; a message says that other processes do not answer."""
        if message:
            hint = "look at the logs of all processes"
            self._findings.append(Finding(check, FAILURE, message, hint))
        self._exiting.acquire()  # and never release: several threads may come here
        hard_exit(exit_code(self._findings), lambda: self._show(self._findings))
