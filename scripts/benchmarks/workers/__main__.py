"""Call the function that the command line names, and print its answer."""

import json
import sys
from importlib import import_module

from benchmarks.workers import MARK, LeftOut

module, _, name = sys.argv[1].rpartition(".")
function = getattr(import_module(f"benchmarks.workers.{module}"), name)
try:
    answer = dict(function(**json.loads(sys.argv[2])))
except LeftOut as reason:
    answer = {"left_out": str(reason)}
print(f"\n{MARK}{json.dumps(answer)}", flush=True)
