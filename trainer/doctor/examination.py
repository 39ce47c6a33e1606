"""All checks in their order: of each process alone, then of all together."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

from jax.sharding import Mesh

from trainer.config.schema import Config
from trainer.data.dataset import Dataset
from trainer.data.mnist import Missing
from trainer.distributed import collectives
from trainer.distributed.heartbeat import Peers
from trainer.distributed.topology import Topology, resolve
from trainer.doctor import devices, host, storage
from trainer.doctor.finding import FAILURE, OK, Finding, exit_code, failure, merge
from trainer.job.directory import expanded
from trainer.job.errors import EXIT_UNAVAILABLE, PeerLost, TrainerError
from trainer.job.exit import hard_exit
from trainer.job.signals import StopRequest
from trainer.parallel import mesh as meshes
from trainer.tracking.terminal import Terminal
from trainer.train import build

FOUND, END = "trainer/doctor/found/", "trainer/doctor/end"
SOON = 5.0  # seconds in which the others answer, once something has gone wrong


class OutOfStepError(Exception):
    """A check ended here as it may not have ended elsewhere: no collective can follow it."""


class Examination:
    """What was found so far; whatever happens, it is shown."""

    def __init__(
        self,
        config: Config,
        downloadable: bool,
        stop: StopRequest,
        show: Callable[[Sequence[Finding]], None],
    ) -> None:
        """Describe what is looked at.

        Args:
            config: of the job.
            downloadable: data that is missing will be downloaded when the job starts.
            stop: whether this process was asked to stop.
            show: prints the findings.
        """
        self._config, self._downloadable, self._stop, self._show = config, downloadable, stop, show
        option = "run.dir" if config.run.dir is not None else "run.root"
        self._root = expanded(config.run.dir or config.run.root, option).absolute()
        self._patience = config.cluster.hang_timeout_seconds
        self._findings: list[Finding] = []
        self._raised: Exception | None = None  # by the last check
        self._connected = True
        self._dataset: Dataset | None = None
        self._ending = threading.Lock()

    def run(self) -> int:
        """Look at everything; return the exit code."""
        topology = self._before_meeting()
        if topology is None:
            self._show(self._findings)
            return exit_code(self._findings)
        self._me, self._count = topology.process_id, topology.num_processes
        with Peers(self._config.cluster.heartbeat_timeout_seconds, self._lost) as self._peers:
            try:
                self._together(topology)
            except OutOfStepError:
                if self._count > 1:
                    self._leave()
            return self._report()

    def _before_meeting(self) -> Topology | None:
        """Look at this process and its host, and meet the others; None: it cannot go on."""
        config = self._config
        found: list[Topology] = []

        def who() -> Finding:
            found.append(resolve(config.cluster, os.environ))
            return host.topology(found[0])

        self._look("versions", host.versions)
        known = self._look("topology", who)
        if known:
            self._look("host name", lambda: host.own_name(found[0]))
        self._look("proxies", lambda: host.proxies(os.environ))
        cached = self._look("compilation cache", lambda: host.compilation_cache(config.train))
        self._look("free space", lambda: host.free_space(self._root))
        met = known and self._look("meeting", lambda: self._meet(found[0], cached))
        return found[0] if met else None

    def _meet(self, topology: Topology, cached: bool) -> Finding:
        config = self._config
        collectives.configure(config.run, config.train.compilation_cache_dir if cached else None)
        collectives.connect(topology, config.cluster, self._stop, self._not_met)
        self._stop.install()
        if topology.num_processes == 1:
            return Finding("meeting", OK, "one process: nobody to meet")
        return Finding("meeting", OK, f"{topology.num_processes} processes at {topology.host}")

    def _together(self, topology: Topology) -> None:
        """Look at what takes the devices and all processes.

        Raises:
            OutOfStepError: after a failure that the others may not have had.
        """
        config = self._config
        made: list[Mesh] = []

        def there() -> Finding:
            self._connected = False  # collectives need the devices of all
            collectives.start_devices(topology, config.cluster, partial(self._give_up, "devices"))
            self._connected = True
            return devices.seen(topology)

        def mesh() -> Finding:
            made.append(collectives.together(lambda: meshes.make_mesh(config.parallel.devices)))
            return Finding("mesh", OK, f"{made[0].size} devices along the axis {meshes.AXIS}")

        def step() -> Finding:
            everywhere = all(collectives.share(lambda: self._dataset is not None))
            return devices.one_step(config, self._dataset if everywhere else None, made[0])

        self._try("devices", there)
        whole = self._try("mesh", mesh)
        divides = whole and self._try("batch", lambda: devices.batch(config, made[0]))
        self._try("run directory", lambda: storage.run_directory(self._root, self._me == 0))
        self._try("data", self._load)
        self._try("clocks", devices.clocks)
        if whole:
            self._try("all-reduce", lambda: devices.all_reduce(made[0]))
        if divides:
            self._try("one step", step)

    def _load(self) -> Finding:
        quiet = Terminal(quiet=True)
        try:
            self._dataset = build.load_dataset(self._config.data, quiet, self._stop)
        except Missing:
            if not self._downloadable:
                raise
        return storage.data_set(self._dataset, self._downloadable)

    def _look(self, check: str, look: Callable[[], Finding]) -> bool:
        """Do a check, and make a finding of whatever goes wrong; return whether all is well."""
        self._raised = None
        try:
            self._findings.append(look())
        except Exception as error:  # a check may meet anything: that is what it is for
            self._raised = error
            self._findings.append(failure(check, error))
        return self._findings[-1].level != FAILURE

    def _try(self, check: str, look: Callable[[], Finding]) -> bool:
        """Do a check in which processes wait for each other, but not for ever."""
        late = f"no end within cluster.hang_timeout_seconds={self._patience:g}"
        with collectives.time_limit(self._patience, lambda: self._give_up(check, late)):
            well = self._look(check, look)
        # After a TrainerError the others go on too: all have it, or they know that one has.
        in_step = isinstance(self._raised, TrainerError) and not isinstance(self._raised, PeerLost)
        if self._raised is not None and self._count > 1 and not (in_step and self._connected):
            raise OutOfStepError from self._raised
        return well

    def _report(self) -> int:
        """Show what all processes have found, as process 0; return the exit code of all."""
        if self._count > 1 and self._me > 0:
            self._tell()
            code = self._peers.ask(END, self._patience)
            return int(code) if code is not None else self._leave()
        findings = self._gather(self._patience)
        self._show(findings)
        if self._count > 1:
            self._peers.tell(END, str(exit_code(findings)))
        return exit_code(findings)

    def _tell(self) -> None:
        self._peers.tell(f"{FOUND}{self._me}", json.dumps(self._findings))

    def _gather(self, seconds: float) -> list[Finding]:
        """As process 0: return what all have found, or that they did not say it in time."""
        end = time.monotonic() + seconds
        of_processes = [self._findings]
        for index in range(1, self._count):
            told = self._peers.ask(f"{FOUND}{index}", max(end - time.monotonic(), 0.1))
            silent = [Finding("end", FAILURE, "did not say what it found", "look at its log")]
            known = [Finding(*found) for found in json.loads(told)] if told else silent
            of_processes.append(known)
        return merge(of_processes)

    def _not_met(self, told: str) -> NoReturn:
        self._findings.append(Finding("meeting", FAILURE, told, "look at their logs"))
        hard_exit(exit_code(self._findings), lambda: self._show(self._findings))

    def _lost(self, told: str) -> None:
        if self._me == 0:
            self._give_up("end", told)
        # There is nobody to tell.
        hard_exit(EXIT_UNAVAILABLE, lambda: print(f"error: {told}", file=sys.stderr))

    def _give_up(self, check: str, told: str) -> NoReturn:
        self._findings.append(Finding(check, FAILURE, told, "look at the logs of all processes"))
        self._leave()

    def _leave(self) -> NoReturn:
        """End this process at once: an orderly end would wait for others that cannot come."""
        self._ending.acquire()  # for good: several threads may come here
        if self._me == 0:
            findings = self._gather(SOON)
            self._show(findings)
            self._peers.announce("process 0, which has given up")
        else:
            findings = self._findings
            self._tell()
        hard_exit(exit_code(findings))
