"""Whatever the files of a run directory hold: a documented end, no traceback, nothing is lost.

TRAINER_MUTATIONS=5000 tries that many mutations: `runs` and `verify`, then `evaluate` or a start.
"""

import contextlib
import json
import os
import random
import shutil
import signal

import jax
import pytest
from support import in_process, mutations
from support.complete_run import COMMANDS, command, record_of, start

from trainer.job.errors import EXIT_COMPLETED, EXIT_CONFIG, EXIT_DATA, EXIT_SAVE
from trainer.sweep import command as sweep_command

DOCUMENTED = {EXIT_COMPLETED, EXIT_DATA, EXIT_SAVE, EXIT_CONFIG}
MOST_SECONDS = 20
COUNT = int(os.environ.get("TRAINER_MUTATIONS", "40"))
FIRST = int(os.environ.get("TRAINER_MUTATIONS_FROM", "0"))

pytestmark = [
    pytest.mark.slow,  # files of JSON: on one Python only
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("read_once"),
]


@contextlib.contextmanager
def no_hang():
    """Fail what takes longer than it may, also where it would catch the error."""

    def end(*_):
        late.append(True)
        raise TimeoutError

    late, before = [], signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not late, "it hangs"


def contents(folder):
    """Return what a folder holds, without reading what is no file."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.stat().st_size < 2**30 else None
        for path in files
    }


def checkpoints(run):
    return [contents(path) for path in (run / "checkpoints").glob("*/") if contents(path)]


def wrong(run, what):
    """Call the commands on a run, and return what is wrong with how they end."""
    problems, before = [], checkpoints(run)
    for name in ("runs", "verify", what):
        try:
            with no_hang():
                done = COMMANDS[name](run)
        except BaseException as error:
            problems.append(f"{name}: {error!r}")
        else:
            ended = done.returncode in DOCUMENTED and "Traceback" not in done.stderr
            problems += [] if ended else [f"{name}: {done}"]
    after = checkpoints(run)
    return problems + ["a checkpoint is lost" for one in before if one not in after]


def test_generated_mutations_end_as_documented_and_lose_no_checkpoint(copy):
    problems = []
    for seed in range(FIRST, FIRST + COUNT):
        run = copy()
        harm = mutations.mutate(run, random.Random(seed))
        what = ("evaluate", "start")[seed % 2]
        problems += [f"mutation {seed}, {harm}, {one}" for one in wrong(run, what)]
        shutil.rmtree(run.parent)
        if seed % 500 == 499:
            jax.clear_caches()  # or the compiled programs of all starts stay in memory
    assert problems == [], "\n".join(problems)


# One list for all files of a run, and what is done about a damaged one:
# (what `runs` notes, the exit code of `verify`, what a start says).
FILES = {
    "summary.json": ("summary.json is ignored", 0, ""),
    "environment.json": (None, 0, ""),
    "goodput.json": (None, 0, "goodput.json is ignored"),
    "metrics.jsonl": (None, 0, "metrics.jsonl"),
    "run.lock": (None, 0, ""),
    ".hydra/config.yaml": (None, 0, ""),
    "checkpoints/126/record.json": (None, EXIT_DATA, "renamed to bad-126.0"),
    "checkpoints/126/manifest.ocdbt": (None, EXIT_DATA, "renamed to bad-126.0"),
    "tensorboard/EVENTS": (None, 0, "events"),
}
DAMAGES = {
    "nested": lambda path: path.write_bytes(mutations.DEEP),
    "400 digits": lambda path: path.write_text('{"step": 1, "starts": 1' + "0" * 400 + "}"),
    **{
        kind: lambda path, kind=kind: (path.unlink(), mutations.INSTEAD[kind](path))
        for kind in ("a pipe", "an endless device", "a folder", mutations.TOO_LARGE)
    },
}
STARTED = ("nested", "a pipe")  # with these, what takes longer is tried too


def file_of(run, name):
    if name.endswith("EVENTS"):
        return next((run / "tensorboard").iterdir())
    return run / name


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_treated_by_its_rule_whatever_is_wrong_with_it(copy, name):
    note, verified, said = FILES[name]
    for damage, harm in DAMAGES.items():
        run = copy()
        harm(file_of(run, name))
        with no_hang():
            listed = COMMANDS["runs"](run)
            assert listed.returncode == 0
            (info,) = json.loads(listed.stderr)["runs"]
            assert info["newest_checkpoint"] == 126, damage
            assert (info["note"] or "").startswith(note or ""), damage
            assert COMMANDS["verify"](run).returncode == verified, damage
        if damage in STARTED:
            with no_hang():
                assert COMMANDS["evaluate"](run).returncode == 0
                done = start(run)
            refused = name == "run.lock" and damage == "a pipe"
            assert done.returncode == (EXIT_CONFIG if refused else 0), done
            assert said in done.stderr, damage
            assert in_process.summary_of(run.parent)["status"] == "completed"


def test_a_record_sealed_without_what_a_start_needs_is_damaged_for_all_commands(copy):
    for key in ("meaning", "versions", "config", "step"):
        run = copy()
        record = json.loads(record_of(run).read_text())
        del record[key]
        record_of(run).write_text(json.dumps(mutations.sealed(record)))
        report = json.loads(COMMANDS["verify"](run).stderr.split("error:")[0])
        assert f"not as it was written: {key}" in report["checkpoints"][-1]["damage"]
        said = COMMANDS["evaluate"](run)
        assert said.returncode == 0
        assert "checkpoint 126" in said.stderr
        assert (run / "evaluation" / "step-84.json").exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_of_a_sweep(pristine, tmp_path, damage):
    member, folder = "optim.lr=0.1", tmp_path / "sweep"
    shutil.copytree(pristine, folder / member)
    names = ("sweep.json", f"{member}/member.json", f"{member}/goodput.json")
    for harmed in names:
        plan = {"fixed": [], "members": {member: {"optim.lr": "0.1"}}}
        (folder / "sweep.json").write_text(json.dumps(plan))
        (folder / member / "member.json").write_text('{"exit_code": 0, "error": null}')
        path = folder / harmed
        kept = path.read_bytes()
        DAMAGES[damage](path)
        with no_hang():
            done = command(sweep_command.main)(folder)
        if harmed == "sweep.json":
            assert done.returncode == EXIT_CONFIG
            assert "sweep.json is missing or damaged" in done.stderr
        else:
            (shown,) = json.loads(done.stderr)["members"]
            assert shown["status"] == "completed"
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.write_bytes(kept)
