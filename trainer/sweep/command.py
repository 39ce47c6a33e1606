"""`python -m trainer -m ...` trains a sweep; `python -m trainer sweep DIR` shows one."""

from collections.abc import Sequence
from pathlib import Path

from trainer.commands.arguments import add_overrides, parse, parser
from trainer.job.directory import expanded
from trainer.job.errors import ConfigError
from trainer.job.files import to_json
from trainer.job.signals import StopRequest
from trainer.job.stdout import show
from trainer.sweep import folder as sweep_folder
from trainer.sweep import launcher
from trainer.sweep.plan import SEARCH, make
from trainer.sweep.report import show_results
from trainer.tracking.terminal import Terminal

TRAIN = """\
Trains every combination of the values given, one after the other or several at once, each in a
folder of its own. The same command again resumes the sweep: it keeps finished trials, resumes
half-done ones and tries failed ones again. At the end it prints the ranked table, and the mean and
spread over the seeds, and writes them to sweep.csv and sweep.png.
"""
TRAIN_NOTES = """\
OPTION=A,B,C        tries these values; so do range(0,5), choice(a,b) and glob(*)
sweep.parallel=N    trains N trials at once, each on its share of the GPUs, or of the CPU's cores;
                    auto: one for each GPU, or on a CPU as many as measured to be fastest
run.name=NAME       the sweep lies in <run.root>/<experiment>/NAME (default: sweep-DIGEST, a digest
                    of the options); the same name takes more values of these options later

exit codes:
  0   all trials are completed
  74  the storage is full or broken, or the output cannot be written
  75  asked to stop: the trials at work have saved, the same command resumes the sweep
  78  a trial has wrong options: none is trained; or another job is at this sweep; or finished
      trials had another configuration, because conf/ has changed since
  else the code of the trials that failed, 70 if their codes differ; the others are done

examples:
  python -m trainer -m +experiment=mlp optim.lr=0.02,0.05,0.1 run.seed=0,1,2
  python -m trainer -m sweep.parallel=auto +experiment=mlp run.seed='range(0,8)'
  python -m trainer -m --members +experiment=mlp optim.lr=0.02,0.05     list, train nothing
  python -m trainer -m --member 1 +experiment=mlp optim.lr=0.02,0.05    one task of a job array
  python -m trainer -m hydra/sweeper=search 'optim.lr=interval(0.01,0.1)'    let Optuna choose
"""
SHOW = """\
Shows the trials of a sweep ranked by checkpoint.best, and the mean and spread over the seeds;
writes the same to sweep.csv and draws sweep.png. Works while the sweep or its job array runs, too:

  python -m trainer sweep runs/mlp/sweep-0123456789
"""
SHOW_NOTES = """\
status:
  completed    all its epochs are done: only these have a rank
  running      a process trains it now; its figures are those of its last evaluation
  preempted    it was asked to stop and has saved
  interrupted  it was killed, or its machine was lost
  waiting      it has not started to train
  failed       it ended with an error, which is shown; output.log in its folder has more

exit codes:
  0   shown, whatever the state of the trials
  74  the output cannot be written
  78  there is no sweep in DIR, or an option is wrong
"""


def multirun(arguments: Sequence[str], stop: StopRequest) -> int:
    """Train the trials of a sweep as the arguments say; return the exit code.

    Raises:
        ConfigError: the command line is wrong, or another job is at the sweep.
        Preempted: asked to stop; the trials at work have saved.
    """
    options = parser("-m", TRAIN, TRAIN_NOTES, "[options] OPTION=VALUE,VALUE ...")
    add = options.add_argument
    add("-m", "--multirun", action="store_true", help="train a sweep")
    add("--members", action="store_true", help="list the trials, from 0")
    add("--member", metavar="I", type=int, help="train trial I in this process")
    add_overrides(options)
    args = parse(options, arguments, overrides=True)
    plan = make(args.overrides)
    if plan.search:
        if args.members or args.member is not None:
            raise ConfigError(f"{SEARCH}: leave out --members and --member: trials are not known")
        from trainer.sweep import search

        return search.main(plan, stop)
    if args.members:
        show("\n".join(f"{i}  {trial.name}" for i, trial in enumerate(plan.trials)))
        return 0
    if args.member is not None:
        return launcher.train_one(plan, args.member, stop)
    return launcher.train_all(plan, [plan.trials], len(plan.trials), stop)


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Show a sweep; return exit code 0.

    Raises:
        ConfigError: an option is wrong, or there is no sweep.
    """
    options = parser("sweep", SHOW, SHOW_NOTES)
    options.add_argument("folder", metavar="DIR", type=Path, help="the folder of the sweep")
    options.add_argument("--json", action="store_true", help="print JSON, write nothing")
    args = parse(options, arguments)
    folder = expanded(args.folder, "DIR").absolute()
    if args.json:
        results = sweep_folder.results(folder)
        members = [result._asdict() for _, result in sweep_folder.rank(results)]
        groups = [group._asdict() for group in sweep_folder.groups(results)]
        show(to_json({"folder": str(folder), "members": members, "groups": groups}, indent=2))
    else:
        show_results(folder, Terminal().warn)
    return 0
