"""Processes that connect as those of a run do, and options for them."""

from functools import partial

from trainer.config.schema import ClusterConfig
from trainer.job.processes import environment

# A program that meets and connects as a process of +experiment=smoke; what it does then is added.
CONNECTED = """
import os, time
from trainer.config.compose import compose
from trainer.distributed.connect import connect, start_devices
from trainer.distributed.topology import resolve
options = compose(["+experiment=smoke"])[0].config.cluster
topology = resolve(options, os.environ)
connect(topology, options, lambda: False, print)
"""
variables = partial(environment, {})  # of a count of processes, an index and an address


def cluster(**options):
    given = dict.fromkeys(
        (
            "coordinator_address",
            "coordinator_port",
            "token",
            "num_processes",
            "process_id",
            "gpus_per_process",
        )
    )
    times = {
        "startup_timeout_seconds": 300,
        "heartbeat_timeout_seconds": 20,
        "hang_timeout_seconds": 600,
    }
    return ClusterConfig(**{"kind": "auto", **given, **times, **options})
