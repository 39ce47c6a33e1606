"""What each option of training costs a step, at batch 64."""

from functools import partial

from benchmarks.bench import Bench
from benchmarks.figures import Result, Section, line, ratios
from benchmarks.sections import rivals
from trainer.parallel.compiler import cannot_multiply

TITLE = "What options of training cost a step, batch 64"
SECONDS = "seconds_per_step"
NONE, PLAIN = "no option", "both evaluations and a checkpoint at the end"
PROGRAM = {  # what changes the program: timed alone
    NONE: (),
    "ema": ("ema.decay=0.999",),
    "clipping": ("optim.clip_norm=1",),
    "log_gradient_norm": ("train.log_gradient_norm=true",),
    "accumulation of 4 parts": ("train.accumulate=4",),
    "adamw": ("optim=adamw",),
    "bfloat16": ("model.precision=bfloat16",),
    "augmentation: shift": ("augment.shift=2",),
    "augmentation: mixup": ("augment.mixup=0.2",),
    "remat in 2 parts": ("model.remat=2",),
}
LOOP = {  # what the loop does besides: whole runs
    PLAIN: (),
    "a checkpoint every epoch": ("checkpoint.every_epochs=1",),
    "an evaluation every epoch": ("train.eval_every_epochs=1",),
}


def measure(bench: Bench) -> Section:
    """Time the program with each, and runs with each, in turn."""
    epochs = (2 if bench.quick else 5) * bench.times

    def train(*options: str) -> Result:
        rare = f"checkpoint.every_epochs={epochs}", f"train.eval_every_epochs={epochs}"
        k = f"train.steps_per_dispatch={rivals.OWN_K}"
        result = bench.train(f"train.epochs={epochs}", k, *rare, *options)
        seconds = result["summary"]["seconds"]
        phases = sum(seconds[phase] for phase in ("data_wait", "step", "save", "evaluate"))
        return {SECONDS: phases / result["summary"]["steps"]}

    program = rivals.program(bench)
    jobs = {name: partial(program, overrides=bench.merged(o)) for name, o in PROGRAM.items()}
    if reason := cannot_multiply(bench.machine["platform"], "bfloat16"):
        jobs["bfloat16"] = partial(dict, left_out=reason)
    jobs |= {name: partial(train, *options) for name, options in LOOP.items()}
    alone, loop = rivals.INCLUDES[rivals.PROGRAM], "waiting, steps, saving, evaluating"
    lines = {
        name: line(name, alone if name in PROGRAM else loop, "us a step", results, SECONDS, 1e6)
        for name, results in bench.interleave(jobs).items()
    }
    compared = [(name, NONE if name in PROGRAM else PLAIN) for name in jobs]
    quotients = [ratios(f"{a} : {b}", lines[a], lines[b]) for a, b in compared if a != b]
    return Section(TITLE, [*lines.values(), *quotients])
