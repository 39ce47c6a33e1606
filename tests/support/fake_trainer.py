"""Stands in for `python -m trainer` in tests of selftest: 30 steps in 0.3 s, saved every 5 steps.

FAULT in the environment makes it break one promise.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

STEPS, EVERY = 30, 5
FAULT = os.environ.get("FAULT", "")
BEGAN = time.time()

stop = []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, lambda *_: time.sleep(60) if FAULT == "hangs" else stop.append(1))

(option,) = (text for text in sys.argv if text.startswith("run.dir="))
run = Path(option.removeprefix("run.dir=").strip("'").replace("\\'", "'"))
checkpoints = run / "checkpoints"
checkpoints.mkdir(parents=True, exist_ok=True)
(run / "environment.json").write_text(json.dumps({"versions": {}}))


def content(step):
    return f"weights after {step}".encode() * 9


def save(step):
    folder = checkpoints / f"saving-{step}"
    folder.mkdir(exist_ok=True)
    (folder / "weights").write_bytes(content(step))
    if not (checkpoints / str(step)).exists():
        folder.rename(checkpoints / str(step))


first = 0
for step in sorted(
    (int(p.name) for p in checkpoints.iterdir() if p.name.isdecimal()), reverse=True
):
    if (checkpoints / str(step) / "weights").read_bytes() == content(step) or FAULT == "trusts":
        first = step
        break
    (checkpoints / str(step)).rename(checkpoints / f"bad-{step}-{time.time_ns()}")
if FAULT == "forgets":
    first = 0
if first:
    print(f"resuming after step {first:,}", flush=True)
log = run / "metrics.jsonl"
lines = log.read_text().splitlines() if log.exists() else []
kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= first]
log.write_text("".join(f"{line}\n" for line in kept))
for step in range(first + 1, STEPS + 1):
    time.sleep(0.01)
    loss = 1 / step + (0.001 if FAULT == "loss" and first else 0)
    with log.open("a") as file:
        point = {"split": "train", "step": step, "time": time.time(), "loss": loss}
        file.write(json.dumps(point) + "\n")
    if step % EVERY == 0 or stop:
        save(step)
    if stop:
        sys.exit(65 if FAULT == "code" else 75)
weights = "other" if FAULT == "weights" and first else "same"
summary = {"status": "completed", "steps": STEPS, "weights_sha256": weights}
summary |= {"started": BEGAN, "wall_seconds": time.time() - BEGAN, "seconds": {"compile": 0.0}}
(run / "summary.json").write_text(json.dumps(summary))
