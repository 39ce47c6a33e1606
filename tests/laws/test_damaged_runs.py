"""Whatever the files of a run directory hold: a documented end, no traceback, nothing is lost.

TRAINER_MUTATIONS=5000 tries that many mutations: `runs` and `verify`, then `evaluate` or a start.
"""

import contextlib
import dataclasses
import functools
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import jax
import pytest
from support import in_process, mutations

from trainer.checkpoint import checksums
from trainer.commands import evaluate, runs, verify
from trainer.config.compose import compose
from trainer.job import lock
from trainer.job.errors import EXIT_COMPLETED, EXIT_CONFIG, EXIT_DATA, EXIT_SAVE, TrainerError
from trainer.job.files import Damaged, parse, read_or_empty
from trainer.job.signals import StopRequest
from trainer.sources import mnist
from trainer.sweep import command as sweep_command
from trainer.sweep import folder as sweep_folder
from trainer.tasks import pictures
from trainer.tracking import environment, goodput, metrics, summary, tensorboard
from trainer.train.job import run as train

# A run that is complete, with its checkpoints 42, 84 and 126.
JOB = (
    *("+experiment=smoke", "data.validation_fraction=0", "run.dir=run", "model.hidden_sizes=[8]"),
    *("train.steps_per_dispatch=21", "checkpoint.every_steps=42", "checkpoint.keep_last=9"),
    "train.pictures_every_epochs=null",
)
DOCUMENTED = {EXIT_COMPLETED, EXIT_DATA, EXIT_SAVE, EXIT_CONFIG}
MOST_SECONDS = 20
COUNT = int(os.environ.get("TRAINER_MUTATIONS", "40"))
FIRST = int(os.environ.get("TRAINER_MUTATIONS_FROM", "0"))

pytestmark = [
    pytest.mark.slow,  # files of JSON: on one Python only
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def read_once():
    """Read the data set and draw each picture once: neither depends on the files of a run."""
    draw, done = pictures.confusion_png, {}

    def drawn(counts, title, names=()):
        key = counts.tobytes(), title, tuple(names)
        return done.get(key) or done.setdefault(key, draw(counts, title, names))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist, "_packaged", functools.cache(mnist._packaged))
        patch.setattr(pictures, "confusion_png", drawn)
        yield


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pristine")
    done = in_process.train(folder, *JOB)
    assert done.returncode == 0, done.stderr
    assert in_process.summary_of(folder)["status"] == "completed"
    return folder / "run"


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


@functools.cache
def composed():
    (job,) = compose([*JOB, "parallel.devices=1"])
    return job


def start(run):
    """Start a run again, as its command does."""
    options = dataclasses.replace(composed().config.run, dir=str(run))
    job = composed()._replace(config=dataclasses.replace(composed().config, run=options))
    return in_process.ended(run.parent, lambda: train(job, StopRequest()))


def command(main):
    """Return a command that runs in this process, like `start`."""
    return lambda run: in_process.ended(
        run.parent, lambda: main([str(run), "--json"], StopRequest())
    )


COMMANDS = {
    "runs": command(runs.main),
    "verify": command(verify.main),
    "evaluate": command(evaluate.main),
    "start": start,
}


def contents(folder):
    """Return what a folder holds, without reading what is no file."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.stat().st_size < 2**30 else None
        for path in files
    }


def checkpoints(run):
    return [contents(path) for path in (run / "checkpoints").glob("*/") if contents(path)]


@pytest.fixture
def copy(pristine, tmp_path):
    """Returns a new copy of the run, in a folder of its own."""
    numbers = iter(range(10**6))

    def make():
        return Path(shutil.copytree(pristine, tmp_path / str(next(numbers)) / "run"))

    return make


def wrong(run, what):
    """Call the commands on a run, and return what is wrong with how they end."""
    found, before = [], checkpoints(run)
    for name in ("runs", "verify", what):
        try:
            with no_hang():
                done = COMMANDS[name](run)
        except BaseException as error:
            found.append(f"{name}: {error!r}")
        else:
            ended = done.returncode in DOCUMENTED and "Traceback" not in done.stderr
            found += [] if ended else [f"{name}: {done}"]
    after = checkpoints(run)
    return found + ["a checkpoint is lost" for one in before if one not in after]


def test_generated_mutations_end_as_documented_and_lose_no_checkpoint(copy):
    found = []
    for seed in range(FIRST, FIRST + COUNT):
        run = copy()
        harm = mutations.mutate(run, random.Random(seed))
        what = ("evaluate", "start")[seed % 2]
        found += [f"mutation {seed}, {harm}, {one}" for one in wrong(run, what)]
        shutil.rmtree(run.parent)
        if seed % 500 == 499:
            jax.clear_caches()  # or the compiled programs of all starts stay in memory
    assert found == [], "\n".join(found)


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


def record_of(run):
    return run / "checkpoints" / "126" / "record.json"


SHAPES = {  # file -> its shape, and keys without which it is of no use
    "summary.json": (summary.SHAPE, ()),
    "environment.json": (environment.SHAPE, ()),
    "goodput.json": (goodput.SHAPE, ()),
    "run.lock": (lock.NOTE, ("host", "pid", "since")),
    "metrics.jsonl": (metrics.SHAPE, ("step", "split", "time")),
    "record.json": (checksums.RECORD, ("step", "meaning", "config", "versions")),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_file_as_it_was_written_has_its_shape_and_no_other(pristine, name):
    shape, needed = SHAPES[name]
    path = record_of(pristine) if name == "record.json" else pristine / name
    written = json.loads(path.read_text().splitlines()[0] if "jsonl" in name else path.read_text())
    fits = parse(json.dumps(written).encode(), shape, name)
    assert fits.keys() == written.keys()
    wrong = [{k: v for k, v in written.items() if k != key} for key in needed]
    for key in [key.rstrip("?*") for key in shape if key.rstrip("?*") in written]:
        wrong += [{**written, key: bad} for bad in (10**400, [[{}]])]
    for value in wrong:
        with pytest.raises(Damaged, match=f"^{name} is not as it was written: "):
            parse(json.dumps(value).encode(), shape, name)


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


def test_a_start_says_what_was_removed_since_the_last_one(copy):
    for name in ("metrics.jsonl", "tensorboard"):
        run = copy()
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
        done = start(run)
        assert done.returncode == 0
        assert f"warning: {run / name}" in done.stderr
        assert "up to step 126 are lost" in done.stderr


def test_damaged_lines_of_the_log_are_left_out_and_counted(copy):
    run = copy()
    before = in_process.points_of(run.parent)
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join([lines[0], b'{"step": "2"}\n', *lines[1:]]))
    done = start(run)
    assert "1 damaged lines are left out" in done.stderr
    assert in_process.points_of(run.parent) == before


def test_read_or_empty_says_nothing_about_what_is_missing(tmp_path):
    warnings = []
    for path in (tmp_path / "a.json", tmp_path / "b" / "a.json"):
        assert read_or_empty(path, {}, warnings.append) == {}
    assert warnings == []
    assert sweep_folder.read_plan(tmp_path) == ([], {})


class RemovesTheLock(StopRequest):
    """Is asked before each dispatch; removes the lock of the run once checkpoint 42 is written."""

    def __init__(self, path):
        super().__init__()
        self.path, self.dispatches = path, 0

    def __call__(self):
        self.dispatches += sys._getframe(1).f_code.co_name == "dispatch"
        if self.dispatches == 3 and self.path.exists():  # of 21 steps each
            while not (self.path.parent / "checkpoints" / "42").exists():
                time.sleep(0.01)
            self.path.unlink()
        return super().__call__()


def test_a_lock_that_is_removed_ends_the_job_before_the_next_save(tmp_path):
    stop = RemovesTheLock(tmp_path / "run" / lock.NAME)
    done = in_process.train(tmp_path, *JOB, "train.epochs=9", stop=stop)
    code = done.returncode
    assert code == 78
    assert "run.lock was removed or replaced while this job ran" in done.stderr
    saved = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved == ["42"]
    assert not (tmp_path / "run" / "summary.json").exists()
    done = in_process.train(tmp_path, *JOB, "train.epochs=9")
    assert (done.returncode, "after step 42" in done.stderr) == (0, True)


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / lock.NAME).symlink_to("precious")
    with pytest.raises(TrainerError, match=r"run\.lock cannot be written"), lock.hold(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_summary_that_cannot_be_written_ends_with_74(copy):
    run = copy()
    (run / "summary.json").unlink()
    (run / "summary.json" / "x").mkdir(parents=True)
    done = start(run)
    code = done.returncode
    assert code == 74
    assert f"no summary in {run}" in done.stderr


SECRET = "s3cr3t-of-the-mirror"


def test_no_file_of_a_run_holds_a_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_STORE_TOKEN", SECRET)
    monkeypatch.setattr("sys.orig_argv", ["python", f"hub.api_key={SECRET}"])
    mirror = f"data.mirrors=['https://host.example/x?a=1&token={SECRET}&b=2']"
    done = in_process.train(tmp_path, *JOB, "train.epochs=1", mirror)
    assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    kept = {path.name for path in files if b"token=***" in path.read_bytes()}
    assert {"config.yaml", "overrides.yaml", "record.json"} <= kept
    assert any(name.startswith("events") for name in kept)
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert facts["environment"]["JAX_STORE_TOKEN"] == "***"
    done = in_process.train(tmp_path, *JOB, "train.epochs=1", mirror)
    assert done.returncode == 0, done.stderr


def test_a_run_with_fewer_digits_than_asked_for_is_marked(tmp_path):
    job = [*JOB, "train.epochs=1", "data=mnist", f"data.cache_dir={tmp_path / 'none'}"]
    done = in_process.train(tmp_path, *job, "data.download=false", "data.offline_fallback=true")
    assert done.returncode == 0, done.stderr
    assert in_process.summary_of(tmp_path)["fallback_from"] == "mnist"
    (info,) = json.loads(COMMANDS["runs"](tmp_path / "run").stderr)["runs"]
    assert info["note"] == "not with mnist: trained on mnist_5k"
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    names = [
        item.metadata.plugin_data.content
        for _, event in tensorboard._records(events.read_bytes())
        for item in event.summary.value
        if item.metadata.plugin_data.plugin_name == "hparams"
    ]
    assert any(b"data.name" in content and b"mnist_5k" in content for content in names)
