"""What the processes of a run tell each other."""

import sys

import numpy as np


def test_two_processes_get_the_bits_of_process_0(trainer):
    program = """
import os
import numpy as np
from trainer.config.compose import compose
from trainer.distributed import collectives, connect, topology
os.environ.pop("XLA_FLAGS", None)
options = compose(["+experiment=smoke"])[0].config.cluster
place = topology.resolve(options, os.environ)
connect.connect(place, options, lambda: False, print)
values = [-0.0, np.nan, np.inf, -1.5e-42, 1.5]
tree = {"a": np.float32(values).reshape(5, 1), "b": np.int32(-7)}
if place.process_id:
    tree = {"a": np.zeros((5, 1), np.float32), "b": np.int32(0)}
got = collectives.broadcast(tree)
for x in got.values():
    print(x.dtype, x.shape, x.tobytes().hex())
"""
    outs = []
    for process in trainer.start_all(2, program=(sys.executable, "-c", program)):
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        outs.append(out.splitlines()[-2:])  # behind what gloo prints
    sent = [np.float32([-0.0, np.nan, np.inf, -1.5e-42, 1.5]), np.int32(-7)]
    first, second = (x.tobytes().hex() for x in sent)
    assert outs == [[f"float32 (5, 1) {first}", f"int32 () {second}"]] * 2
