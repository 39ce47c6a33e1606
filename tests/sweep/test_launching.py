"""Launching trials, which take no time here, and searching."""

import statistics
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.sweep_folders import finish, write

from trainer.job import directory, lock
from trainer.job.errors import ConfigError, Preempted
from trainer.job.signals import StopRequest
from trainer.sweep import command, launcher, shares, width
from trainer.sweep import folder as sweep_folder
from trainer.sweep.folder import Trial


class Ended:
    """Stands for the process of a trial: it has ended before anybody looks."""

    pid, returncode = 0, 0

    def poll(self):
        return 0

    def wait(self):
        return 0


class Trials:
    """Stands for the child processes: notes which trials are trained, and finishes them."""

    def __init__(self, monkeypatch, folder):
        self.folder, self.trained, self.codes = folder, [], {}
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(launcher, "Child", self.child)
        monkeypatch.setattr(shares, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
        monkeypatch.delenv("XLA_FLAGS")  # no simulated devices

    def child(self, folder: Path, number: int, trial: Trial, share):
        """Stand for Child: train at once."""
        assert lock.held(folder, "sweep.lock")
        self.trained.append(trial)
        code = self.codes.get(len(self.trained), 0)
        error = "broken" if code else None
        write(folder / trial.name / "member.json", exit_code=code, error=error)
        if code == 0:
            finish(trial, 1 - abs(float(trial.values.get("optim.lr", 0)) - 0.07))
        return SimpleNamespace(
            number=number,
            asked=False,
            process=Ended(),
            last_line="working",
            stop=lambda: None,
            end=lambda warn: (code, error),
        )

    def run(self, *arguments, stop=None):
        begin = len(self.trained)
        arguments = ["-m", "+experiment=smoke", f"run.dir={self.folder}", *arguments]
        code = command.multirun(arguments, stop or StopRequest())
        return code, [trial.name for trial in self.trained[begin:]]


@pytest.fixture
def trials(monkeypatch, tmp_path):
    return Trials(monkeypatch, tmp_path / "sweep")


@pytest.mark.parametrize(
    ("codes", "code"), [({}, 0), ({1: 78}, 78), ({1: 70, 3: 70}, 70), ({1: 78, 2: 65}, 70)]
)
def test_a_failed_trial_gives_the_exit_code_and_is_tried_again(codes, code, trials, capsys):
    trials.codes = codes
    names = ["run.seed=0", "run.seed=1", "run.seed=2"]
    assert trials.run("run.seed=0,1,2") == (code, names)
    assert ("failed  " in capsys.readouterr().out) == bool(codes)
    trials.codes = {}
    assert trials.run("run.seed=0,1,2") == (0, [names[number - 1] for number in codes])
    assert trials.run("run.seed=0,1,2,3") == (0, ["run.seed=3"])


def test_a_stop_ends_the_sweep_before_the_next_trial(trials, capsys):
    trials.codes = {2: 75}
    with pytest.raises(Preempted, match=r"2/3 run\.seed=1: broken; the same command resumes"):
        trials.run("run.seed=0,1,2")
    assert [r.status for r in sweep_folder.results(trials.folder)] == [
        *("completed", "preempted", "waiting")
    ]
    assert "validation accuracy  spread" in capsys.readouterr().out
    stop = StopRequest()
    stop.signal_name = "SIGTERM"
    with pytest.raises(Preempted, match="SIGTERM"):
        trials.run("run.seed=0,1,2", stop=stop)
    assert len(trials.trained) == 2


def test_two_jobs_at_one_sweep_are_refused(trials):
    trials.folder.mkdir()
    with (
        lock.hold(trials.folder, "sweep.lock", "sweep"),
        pytest.raises(ConfigError, match=r"sweep .* is in use by process"),
    ):
        trials.run("run.seed=0,1")
    assert not trials.trained


def test_a_task_of_an_array_names_what_stands_in_its_way(trials):
    run = trials.folder / "run.seed=0"
    run.mkdir(parents=True)
    with lock.hold(run), pytest.raises(ConfigError, match="in use by process"):
        trials.run("run.seed=0,1", "--member", "0")  # a second start of the same task
    assert sorted(path.name for path in run.iterdir()) == ["run.lock"]
    (trials.folder / "sweep.turn").unlink()
    (trials.folder / "sweep.turn").mkdir()
    with pytest.raises(ConfigError, match=r"sweep\.turn cannot be written"):
        trials.run("run.seed=0,1", "--member", "0")


def test_a_trial_that_cannot_be_started_leaves_the_others_alone(trials, capsys):
    run = trials.folder / "run.seed=1"
    run.mkdir(parents=True)
    (run / "sweep.json").touch()  # as in the folder of another sweep
    real, trials.codes = trials.child, {1: 74}

    def child(folder, number, trial, share):
        directory.create(folder / trial.name)
        return real(folder, number, trial, share)

    trials.monkeypatch.setattr(launcher, "Child", child)
    code, names = trials.run("run.seed=0,1,2,3", "sweep.parallel=2")
    assert (code, names) == (70, [f"run.seed={seed}" for seed in (0, 2, 3)])
    err = capsys.readouterr().err
    assert "1/4 run.seed=0: failed: broken" in err
    assert "2/4 run.seed=1: failed: " in err
    assert "is the folder of a sweep" in err
    assert [r.status for r in sweep_folder.results(trials.folder)] == [
        "failed",
        "waiting",
        "completed",
        "completed",
    ]


# Measuring how many trials to train at once.


class Machine:
    """Trials on four cores, 3 s after whose start the training begins, and of which none fails.

    `speeds`: trials at work -> examples per second of each. A trial ends after so many examples.
    """

    def __init__(self, monkeypatch, trials, speeds, examples):
        self.now, self.speeds, self.waiting, self.notes = 0.0, speeds, [examples] * trials, []
        monkeypatch.setattr(width.time, "time", lambda: self.now)
        monkeypatch.setattr(width.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(width, "speeds", self.logged)
        monkeypatch.setattr(width, "finished", lambda run: True)
        monkeypatch.setattr(width.processes, "resident", lambda process: 1)
        monkeypatch.setattr(shares, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
        self.width = width.Width("auto", 1, {}, self.notes.append)
        self.at_work = {}

    def logged(self, child, since):
        """Stand for width.speeds: two dispatches a second."""
        dispatches = int(2 * (self.now - max(since, child.began + 3)))
        return [self.speed] * dispatches

    @property
    def speed(self):
        return self.speeds[max(count for count in self.speeds if count <= len(self.at_work))]

    def run(self, seconds):
        """Let time pass; return how many were at work last."""
        waiting, last, end = self.waiting, 0, self.now + seconds
        while self.now < end and (waiting or self.at_work):
            while waiting and (place := self.width.free(self.at_work)) is not None:
                child = SimpleNamespace(began=self.now, process=None, run=Path("none"))
                child.stopped, child.left = False, waiting.pop(0)
                child.stop = partial(setattr, child, "stopped", True)
                self.at_work[place] = child
            self.now, last, speed = self.now + 0.1, len(self.at_work), self.speed
            for place, child in [*self.at_work.items()]:
                child.left -= 0.1 * speed * (self.now > child.began + 3)
                if child.stopped or child.left <= 0:
                    del self.at_work[place]
                    waiting[:0] = [child.left] * (child.left > 0)
            self.width.look(self.at_work, len(waiting))
        return last


@pytest.mark.parametrize(
    ("trials", "speeds", "count"),
    [
        (8, {1: 100, 2: 60, 4: 30}, 4),
        (8, {1: 100, 2: 60, 4: 24}, 2),
        (8, {1: 100, 2: 45, 4: 20}, 1),
        (9, {1: 100, 2: 51, 4: 26}, 1),  # in three rounds, the last with one trial on one core
        (3, {1: 100, 3: 80}, 3),
        (1, {1: 100}, 1),
    ],
)
def test_as_many_train_at_once_as_are_faster_than_one_by_one(trials, speeds, count, monkeypatch):
    machine = Machine(monkeypatch, trials, speeds, examples=1e9)
    assert machine.run(19) == 1
    assert machine.run(50) == count
    assert len(machine.width.shares) == count
    assert (machine.width.shares == [shares.WHOLE]) == (count == 1)
    assert (f"{count} at once from now on" in "".join(machine.notes)) == (trials > 1)


@pytest.mark.parametrize(
    ("speeds", "room", "count"),
    [
        ({1: 100, 2: 45, 4: 20}, 9, 4),  # start-up is a part of what is compared
        ({1: 100, 4: 10}, 9, 1),
        ({1: 100, 2: 60}, 2, 2),  # of what fits into the memory
    ],
)
def test_short_trials_are_compared_as_a_whole(speeds, room, count, monkeypatch):
    machine = Machine(monkeypatch, 20, speeds, examples=200)  # 5 s alone
    monkeypatch.setattr(width.processes, "available_memory", lambda: room)
    machine.run(50)
    assert len(machine.width.shares) == count
    assert machine.notes[0].endswith("s for one trial alone")


def test_a_trial_that_fails_is_not_compared(monkeypatch):
    machine = Machine(monkeypatch, 9, {1: 100}, examples=200)
    monkeypatch.setattr(width, "finished", lambda run: False)
    machine.run(30)
    assert len(machine.width.shares) == 1
    assert not machine.notes


# Searching.

SEARCH = (
    *("hydra/sweeper=search", "hydra.sweeper.n_trials=5", "optim.lr=tag(log,interval(0.01,1))"),
    "+hydra.sweeper.sampler.n_startup_trials=2",
)


def test_a_search_finds_good_values_and_stays_in_the_ranges(trials):
    code, names = trials.run(*SEARCH, "model.hidden_sizes=[16],[8]", "hydra.sweeper.n_trials=12")
    assert (code, len(names), len(set(names))) == (0, 12, 12)
    rates = [float(trial.values["optim.lr"]) for trial in trials.trained]
    assert all(0.01 <= rate <= 1 for rate in rates)
    assert {trial.values["model.hidden_sizes"] for trial in trials.trained} == {"[16]", "[8]"}
    early, late = (
        statistics.median(abs(r - 0.07) for r in part) for part in (rates[:6], rates[6:])
    )
    assert late < early


def test_an_interrupted_search_resumes_where_it_ended(trials, tmp_path):
    _, unbroken = trials.run(*SEARCH)
    trials.folder = tmp_path / "broken"
    trials.codes = {5 + 4: 75}
    with pytest.raises(Preempted):
        trials.run(*SEARCH)
    assert trials.run(*SEARCH) == (0, unbroken[3:])
    assert trials.run(*SEARCH) == (0, [])
    assert len(trials.run(*SEARCH, "hydra.sweeper.n_trials=6")[1]) == 1
    assert [r.name for r in sweep_folder.results(trials.folder)][:5] == unbroken


def test_a_search_proposes_batches_whatever_ends_first_or_is_interrupted(trials, tmp_path):
    two = (*SEARCH, "hydra.sweeper.n_trials=6", "sweep.parallel=2")
    _, unbroken = trials.run(*two)
    trials.folder = tmp_path / "one by one"
    _, one_by_one = trials.run(*SEARCH)
    assert unbroken[:3] == one_by_one[:3]
    assert unbroken[3] != one_by_one[3]  # proposed before the third had ended
    trials.folder = tmp_path / "broken"
    trials.codes = {6 + 5 + 3: 75}  # the fourth, at work beside it, still ends well
    with pytest.raises(Preempted, match=r"3/6 .*: broken"):
        trials.run(*two)
    assert trials.run(*two) == (0, [unbroken[2], *unbroken[4:]])
    assert [r.name for r in sweep_folder.results(trials.folder)] == unbroken


def test_another_seed_is_another_search(trials, tmp_path):
    random_sampler = "hydra/sweeper=search", "hydra.sweeper.n_trials=3", SEARCH[2]
    sampler = "hydra.sweeper.sampler._target_=optuna.samplers.RandomSampler"
    actual = set()
    for seed in (0, 1):
        trials.folder = tmp_path / str(seed)
        actual.update(trials.run(*random_sampler, sampler, f"hydra.sweeper.sampler.seed={seed}")[1])
    assert len(actual) == 6


def test_a_search_goes_on_after_a_failed_trial_and_without_new_values(trials):
    trials.codes = {1: 70}
    ranges = ("hydra/sweeper=search", "hydra.sweeper.n_trials=9", "run.seed=range(0,3)")
    code, names = trials.run(*ranges, "train.epochs=int(interval(1,2))")
    assert code == 70
    assert len(names) == len(set(names)) == 6
    assert trials.run(*ranges, "train.epochs=int(interval(1,2))") == (0, names[:1])


def test_without_optuna_the_search_says_what_to_install(trials, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[optuna\]' in the checkout"):
        trials.run(*SEARCH)
    assert not trials.folder.exists()
