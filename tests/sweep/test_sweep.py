"""Naming, enumerating and ranking the members of a sweep; what is refused; the plot."""

import csv
import io
import json
import random
import statistics
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainer.config.compose import compose_each
from trainer.job import lock
from trainer.job.errors import ConfigError
from trainer.job.signals import StopRequest
from trainer.sweep import combine, command, multirun, plan, plot, ranking, trial, unchanged
from trainer.sweep import folder as sweep_folder
from trainer.sweep.ranking import Result

keys = st.sampled_from(["optim.lr", "model.hidden_sizes", "+experiment", "data.root", "run.seed"])
texts = st.text(max_size=12) | st.sampled_from(["[1,2]", "a,b=c", "../x", "a/b", "'q'", "%2F", ""])
value_dicts = st.dictionaries(keys, texts | st.integers(60, 300).map("w".__mul__), min_size=1)


@given(value_dicts)
def test_a_name_is_a_plain_folder_name_whatever_the_values_are(values):
    name = combine.member_of(values, []).name
    assert name.isascii()
    assert len(name) <= 120
    assert not set(name) & set("/\\\0 '\"$`*?{}()<>|;&!#")
    assert not name.startswith((".", "-"))


@given(st.lists(keys, min_size=1, unique=True).flatmap(
    lambda chosen: st.tuples(*[st.fixed_dictionaries(dict.fromkeys(chosen, texts))] * 2)
))  # fmt: skip
def test_no_two_combinations_of_values_have_one_name(pair):
    one, other = (combine.member_of(values, []).name for values in pair)
    assert (one == other) == (pair[0] == pair[1])


@given(value_dicts, st.randoms())
def test_a_name_does_not_depend_on_the_order_of_the_options(values, rng):
    items = list(values.items())
    rng.shuffle(items)
    assert combine.member_of(dict(items), []) == combine.member_of(values, [])


@given(st.lists(st.text(max_size=8), max_size=6), st.randoms())
def test_the_folder_does_not_depend_on_the_order_of_the_overrides(overrides, rng):
    shuffled = list(overrides)
    rng.shuffle(shuffled)
    assert combine.folder_name(shuffled) == combine.folder_name(overrides)
    assert combine.folder_name([*overrides, "one more"]) != combine.folder_name(overrides)


@given(st.dictionaries(keys, st.lists(texts, min_size=1, max_size=4, unique=True), min_size=1))
def test_every_combination_is_there_once(swept):
    members = combine.combine(swept, ["train.epochs=1"])
    count = 1
    for values in swept.values():
        count *= len(values)
    assert len(members) == len({member.name for member in members}) == count
    assert len({tuple(sorted(member.values.items())) for member in members}) == count
    assert all(member.overrides[0] == "train.epochs=1" for member in members)


def test_the_names_of_a_usual_sweep():
    members = combine.combine({"run.seed": ["0", "1"], "optim.lr": ["0.02"]}, [])
    assert [m.name for m in members] == ["optim.lr=0.02,run.seed=0", "optim.lr=0.02,run.seed=1"]
    assert combine.name_of({"data.root": "/a b"}) == "data.root=%2Fa%20b"
    assert combine.name_of({"model.hidden_sizes": "[16,8]"}) == "model.hidden_sizes=[16,8]"


accuracies = st.floats(0, 1)
made_results = st.lists(
    st.builds(
        lambda lr, seed, status, accuracy, loss: Result(
            f"{lr},{seed}", {"optim.lr": lr, "run.seed": seed}, status, accuracy, loss
        ),
        st.sampled_from(["0.1", "0.2"]),
        st.sampled_from("0123"),
        st.sampled_from(ranking._ORDER),
        accuracies,
        st.floats(0, 10) | st.just(float("nan")),
    ),
    max_size=12,
)


@given(made_results)
def test_completed_members_come_first_and_best_first(results):
    ranked = ranking.rank(results)
    assert sorted(map(id, ranked)) == sorted(map(id, results))
    completed = [r.test_accuracy for r in ranked if r.status == "completed"]
    assert completed == sorted(completed, reverse=True)
    assert all(r.status == "completed" for r in ranked[: len(completed)])


def test_a_loss_that_is_not_a_number_is_the_worst():
    losses = [float("nan"), 0.2, float("inf"), None, 0.1]
    results = [Result(str(loss), {}, "completed", 0.5, loss) for loss in losses]
    assert [r.test_loss for r in ranking.rank(results)][:2] == [0.1, 0.2]
    better = Result("better", {}, "completed", 0.6, float("nan"))
    assert ranking.rank([*results, better])[0] is better


@given(made_results)
def test_a_group_is_the_completed_members_that_differ_only_in_the_seed(results):
    for group in ranking.groups(results):
        own = [
            r.test_accuracy
            for r in results
            if r.status == "completed" and r.values["optim.lr"] == group.values["optim.lr"]
        ]
        assert group.seeds == len(own)
        assert group.mean == pytest.approx(statistics.fmean(own))
        assert (group.spread is None) == (len(own) == 1)
        if len(own) > 1:
            assert group.spread == pytest.approx(statistics.stdev(own))
        assert (group.lowest, group.highest) == (min(own), max(own))
    counted = sum(group.seeds for group in ranking.groups(results))
    assert counted == sum(r.status == "completed" for r in results)


@given(made_results)
def test_the_csv_reads_back(results):
    rows = ranking.member_rows(results)
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    assert list(csv.reader(io.StringIO(text.getvalue(), newline=""))) == rows
    assert len(rows) == len(results) + 1


# What the command line means.


def make(*overrides):
    return plan.make(["+experiment=smoke", *overrides])


def test_a_command_names_its_members_and_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = make("optim.lr=0.02,5e-2", "run.seed=range(0,3)", "train.epochs=1")
    assert len(made.members) == 6
    assert made.members[4].name == "optim.lr=0.05,run.seed=1"
    assert made.fixed == ["+experiment=smoke", "train.epochs=1"]
    assert made.folder.parent == tmp_path / "runs" / "smoke"
    again = make("run.seed=range(0,3)", "train.epochs=1", "optim.lr=0.02,0.05", "run.quiet=true")
    assert again.folder == made.folder
    assert {m.name for m in again.members} == {m.name for m in made.members}
    assert make("optim.lr=0.02,0.05", "run.seed=range(0,3)").folder != made.folder
    assert make("optim.lr=1,2", "run.name=mine").folder == tmp_path / "runs" / "smoke" / "mine"
    assert make("optim.lr=1,2", "run.root=a").folder.parent == tmp_path / "a" / "smoke"
    assert make("optim.lr=1,2", "run.dir=here").folder == tmp_path / "here"
    both = plan.make(["+experiment=mlp,smoke", "run.name=both"])
    assert both.folder == tmp_path / "runs" / "several" / "both"
    assert not list(tmp_path.iterdir())


def test_a_member_is_told_its_folder_whatever_it_is_called():
    made = make("model.hidden_sizes=[16],[16,8]", "run.dir='/it\\'s a/dir, [x]'")
    assert made.folder == Path("/it's a/dir, [x]")
    jobs = compose_each([plan.arguments(made.folder, member) for member in made.members])
    assert [job.config.model.hidden_sizes for job in jobs] == [[16], [16, 8]]
    assert jobs[1].config.run.dir == "/it's a/dir, [x]/model.hidden_sizes=[16,8]"


@pytest.mark.parametrize("root", ["~/mnist", "/data(1)", "/it's", "/a b", "12e4567", "/a=b"])
def test_a_folder_of_a_sweep_is_what_it_is_in_a_single_run(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = (f"data.root={root}", f"train.compilation_cache_dir={root}", f"run.root={root}")
    (single,) = compose_each([overrides])
    assert single.config.data.root == root
    made = make(*overrides, "run.seed=0,1")
    assert made.fixed == ["+experiment=smoke", f"data.root={root}"]
    assert made.folder.parent == Path(root).expanduser().absolute() / "smoke"
    jobs = compose_each([plan.arguments(made.folder, member) for member in made.members])
    assert [job.config.data.root for job in jobs] == [root] * 2
    assert [job.config.run.dir for job in jobs] == [
        str(made.folder / f"run.seed={seed}") for seed in (0, 1)
    ]


def test_one_more_folder_is_taken_by_a_sweep_over_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = make("data.root=/a,choice/b", "run.name=mine")
    assert [member.name for member in first.members] == ["data.root=%2Fa", "data.root=choice%2Fb"]
    first.folder.mkdir(parents=True)
    sweep_folder.write_plan(first.folder, first.fixed, first.members)
    more = make("data.root=~/it's", "run.name=mine")
    assert [member.values for member in more.members] == [{"data.root": "~/it's"}]
    (job,) = compose_each([plan.arguments(more.folder, more.members[0])])
    assert job.config.data.root == "~/it's"
    again = make("data.root=/a", "run.name=mine")
    assert again.members == first.members[:1]


def test_the_folder_of_a_sweep_keeps_its_name():
    made = make("optim.lr=0.02,0.05", "run.seed=0,1", "data.root=/a/b", "run.root=/runs")
    assert str(made.folder) == "/runs/smoke/sweep-2ea2b77e66"
    made = make("run.seed= 3", "data.root=/a/b", "run.root=/runs")
    assert str(made.folder) == "/runs/smoke/sweep-31819381c2"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train.epochs=1"], "no option has several values"),
        (["run.seed="], "run.seed"),
        (["optim.lr=0.1,1e-1"], "optim.lr=0.1 comes twice"),
        (["optim.lr=0.1,-1"], "optim.lr=-1.0: use a finite number above 0"),
        (["optim.lrr=0.1,0.2"], "did you mean optim.lr?"),
        (["optim.lr=["], "optim.lr=["),
        (["optim.lr=interval(0.1,0.2)"], "hydra/sweeper=search"),
        (["optim.lr=shuffle(0.1,0.2)"], "shuffling"),
        (["run.name=a,b"], "members cannot differ in run.name"),
        (["run.dir=a,b"], "members cannot differ in run.dir"),
        (["run.quiet=true,false"], "members cannot differ in run.quiet"),
        (["optim.lr=1,2", "hydra.sweep.dir=x"], "run.dir=DIR"),
        (["optim.lr=1,2", "hydra/launcher=joblib"], "one after the other"),
        (["optim.lr=1,2", "hydra/sweeper=optuna"], "hydra/sweeper=search"),
        (["optim.lr=1,2", "--cfg", "job"], "python -m trainer -m --help"),
        (["optim.lr=1,2", "--member", "2"], "--member 2: the sweep has 2 members: use 0 to 1"),
        (["optim.lr=1,2", "--member", "-1"], "--member -1"),
        (["optim.lr=1,2", "--member", "x"], "--help"),
        (["hydra/sweeper=search", "--member", "0", "optim.lr=1,2"], "results before it"),
        (["hydra/sweeper=search", "hydra.sweeper.params={a: 1}"], "hydra.sweeper.params={a: 1}: "),
        (["hydra/sweeper=search", "hydra.sweeper.search_space.a=1"], "like 'optim.lr=interval("),
    ],
)
def test_what_is_wrong_is_refused_at_once(arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        multirun.main(["-m", "+experiment=smoke", *arguments], StopRequest())
    assert told in str(raised.value)
    assert raised.value.exit_code == 78
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["-m", "optim.lr=1,2"], True),
        (["optim.lr=1,2", "--multirun"], True),
        (["--multi", "optim.lr=1,2"], True),
        (["hydra.mode=MULTIRUN", "optim.lr=1,2"], True),
        (["optim.lr=1"], False),
        (["--mode", "optim.lr=1"], False),
    ],
)
def test_when_a_command_line_asks_for_a_sweep(arguments, asked):
    assert plan.is_sweep(arguments) == asked


def test_a_sweep_of_several_processes_is_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    with pytest.raises(ConfigError, match=r"2 processes were started.*--member"):
        multirun.main(["-m", "+experiment=smoke", "optim.lr=1,2"], StopRequest())
    assert not list(tmp_path.iterdir())


def test_the_sweep_itself_does_not_import_jax():
    names = "multirun, launcher, supervisor, command, search"
    code = f"import sys; from trainer.sweep import {names}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_members_are_listed(capsys):
    code = multirun.main(["--members", "-m", "optim.lr=1,2", "run.seed=0"], StopRequest())
    assert code == 0
    assert capsys.readouterr().out == "0  optim.lr=1\n1  optim.lr=2\n"


@pytest.mark.parametrize("arguments", [["-m", "--help"], ["sweep", "--help"]])
def test_help(arguments, trainer):
    done = trainer(*arguments)
    assert done.returncode == 0
    assert "sweep.csv" in done.stdout
    assert "exit codes" in done.stdout


# The folder of a sweep, whatever state it was left in.


def write(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_a_named_folder_takes_more_values_but_no_other_sweep(tmp_path):
    first, more = make("optim.lr=1,2"), make("optim.lr=2,3")
    sweep_folder.write_plan(tmp_path, first.fixed, first.members)
    sweep_folder.write_plan(tmp_path, more.fixed, more.members)
    names = ["optim.lr=1", "optim.lr=2", "optim.lr=3"]
    assert list(sweep_folder.read_members(tmp_path)) == names
    other = make("optim.lr=1,2", "train.epochs=9")
    with pytest.raises(ConfigError, match=r"train\.epochs=9: here only"):
        sweep_folder.write_plan(tmp_path, other.fixed, other.members)
    other = make("optim.momentum=0.1,0.2")
    with pytest.raises(ConfigError, match="other options are swept"):
        sweep_folder.write_plan(tmp_path, other.fixed, other.members)
    assert list(sweep_folder.read_members(tmp_path)) == names


def test_a_sweep_of_one_seed_takes_more_later(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = make("run.seed=0", "run.name=mine")
    assert [member.name for member in one.members] == ["run.seed=0"]
    assert one.fixed == ["+experiment=smoke"]
    one.folder.mkdir(parents=True)
    sweep_folder.write_plan(one.folder, one.fixed, one.members)
    more = make("run.seed=0,1", "run.name=mine")
    sweep_folder.write_plan(more.folder, more.fixed, more.members)
    assert list(sweep_folder.read_members(one.folder)) == ["run.seed=0", "run.seed=1"]


def test_a_named_sweep_takes_one_more_value_of_an_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = make("model.hidden_sizes=[16],[16,8]", "run.seed=0,1", "run.name=mine")
    first.folder.mkdir(parents=True)
    sweep_folder.write_plan(first.folder, first.fixed, first.members)
    more = make("model.hidden_sizes=[ 8 ]", "run.seed=1,2", "run.name=mine", "run.quiet=true")
    assert more.fixed == first.fixed
    names = ["model.hidden_sizes=[8],run.seed=1", "model.hidden_sizes=[8],run.seed=2"]
    assert [member.name for member in more.members] == names
    sweep_folder.write_plan(more.folder, more.fixed, more.members)
    assert len(sweep_folder.read_members(first.folder)) == 6


def test_a_named_sweep_with_a_fixed_seed_takes_one_more_value(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = make("run.seed=3", "optim.lr=0.02,0.05", "run.name=mine")
    first.folder.mkdir(parents=True)
    sweep_folder.write_plan(first.folder, first.fixed, first.members)
    more = make("run.seed=3", "optim.lr=1e-1", "run.name=mine")
    assert more.fixed == first.fixed == ["+experiment=smoke", "run.seed=3"]
    assert [member.name for member in more.members] == ["optim.lr=0.1"]
    sweep_folder.write_plan(more.folder, more.fixed, more.members)
    other = make("run.seed=4", "optim.lr=0.2", "run.name=mine")
    with pytest.raises(ConfigError, match=r"run\.seed=4: here only"):
        sweep_folder.write_plan(other.folder, other.fixed, other.members)


def finish(folder, made, *changes):
    """Leave behind what tells that the members are finished, but for changes to their options."""
    sweep_folder.write_plan(folder, made.fixed, made.members)
    for member in made.members:
        write(folder / member.name / "summary.json", status="completed", test_accuracy=0.5)
        (job,) = compose_each([[*member.overrides, *changes]])
        (folder / member.name / ".hydra").mkdir(exist_ok=True)
        (folder / member.name / ".hydra" / "config.yaml").write_text(job.record["config.yaml"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("model.hidden_sizes=[24]", "run.seed=3: model.hidden_sizes: [24] there, ["),
        ("train.epochs=7", "run.seed=3: train.epochs: 7 in the checkpoint, "),
        ("optim.momentum=0.3", "run.seed=3: optim.momentum: 0.3 in the checkpoint, "),
        (
            "data=mnist",
            "run.seed=3: data.name: mnist in the checkpoint, mnist_5k",
        ),
        ("run.quiet=true", None),
        ("data.root=/elsewhere", None),
        ("train.log_every_steps=3", None),
    ],
)
def test_what_conf_says_otherwise_is_refused(change, told, tmp_path):
    made = make("run.seed=3,4")
    finish(tmp_path, made, change)
    if told is None:
        unchanged.check(tmp_path, made.fixed)
        return
    with pytest.raises(ConfigError, match=r"begin another sweep with run\.name=NAME") as raised:
        unchanged.check(tmp_path, made.fixed)
    assert told in str(raised.value)
    assert raised.value.exit_code == 78


def test_a_job_array_that_conf_says_otherwise_is_not_submitted(trainer, tmp_path):
    options = ("-m", "+experiment=smoke", "train.epochs=1", "run.seed=3", "run.name=sweep")
    assert trainer(*options).returncode == 0
    path = tmp_path / "runs" / "smoke" / "sweep" / "run.seed=3" / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace("momentum: 0.9", "momentum: 0.3"))
    done = trainer("submit", "slurm", "--dry-run", *options)
    assert done.returncode == 78
    assert "run.seed=3: optim.momentum: 0.3 in the checkpoint" in done.stderr
    assert done.stdout == ""


def test_a_member_that_does_not_tell_its_configuration_is_left_alone(tmp_path):
    made = make("run.seed=3,4")
    finish(tmp_path, made, "train.epochs=7")
    (tmp_path / "run.seed=3" / ".hydra" / "config.yaml").write_bytes(b"\xff: [")
    (tmp_path / "run.seed=4" / ".hydra" / "config.yaml").write_text("- 1")
    unchanged.check(tmp_path, made.fixed)
    unchanged.check(tmp_path / "missing", made.fixed)


def test_how_a_member_stands_is_told_from_its_folder(tmp_path):
    def status(name):
        return trial.result(tmp_path, name, {}).status

    assert status("none") == "waiting"
    (tmp_path / "killed" / "checkpoints").mkdir(parents=True)
    assert status("killed") == "interrupted"
    write(tmp_path / "done" / "summary.json", status="completed", test_accuracy=0.5)
    assert status("done") == "completed"
    write(tmp_path / "stopped" / "member.json", begun=1.0, exit_code=75, error="SIGTERM")
    assert status("stopped") == "preempted"
    write(tmp_path / "bad" / "member.json", begun=1.0, exit_code=70, error="not finite")
    assert trial.result(tmp_path, "bad", {}).error == "not finite"
    # A process of several leaves at once when another is lost: only its summary tells.
    write(tmp_path / "lost" / "member.json", begun=1.0, exit_code=None, error=None)
    write(tmp_path / "lost" / "summary.json", status="failed", error="lost", started=2.0)
    assert status("lost") == "failed"
    write(tmp_path / "again" / "member.json", begun=3.0, exit_code=None, error=None)
    write(tmp_path / "again" / "summary.json", status="preempted", started=2.0)
    (tmp_path / "again" / "checkpoints").mkdir()
    assert status("again") == "interrupted"
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "summary.json").write_text('{"status": "comp')
    assert status("torn") == "waiting"


@pytest.mark.parametrize(
    ("held", "summary", "ending", "saved", "status"),
    [
        (True, {"status": "completed"}, {"exit_code": 0}, True, "running"),
        (False, {"status": "completed"}, {"exit_code": None}, True, "completed"),
        (False, {}, {"exit_code": 75}, True, "preempted"),
        (False, {"status": "failed"}, {"exit_code": 75}, True, "preempted"),
        (False, {}, {"exit_code": 0}, True, "failed"),  # without a summary
        (False, {"status": "failed", "started": 2.0}, {"begun": 1.0}, True, "failed"),
        (False, {"status": "failed", "started": 2.0}, {"begun": 3.0}, True, "interrupted"),
        (False, {"status": "failed", "started": None}, {"begun": 1.0}, True, "interrupted"),
        (False, {"status": "preempted", "started": 2}, {}, False, "preempted"),
        (False, {"status": "stopped", "started": 2.0}, {"begun": 1.0}, True, "interrupted"),
        (False, {"status": ["x"]}, {"exit_code": "x", "begun": "y"}, False, "waiting"),
        (False, {}, {}, True, "interrupted"),
        (False, {}, {}, False, "waiting"),
    ],
)
def test_the_status_of_a_member(held, summary, ending, saved, status):
    summary = trial.of_last_start(summary, ending, {})
    assert trial.status_of(held, summary, ending, saved) == status


def timer(starts, seconds):
    return {"starts": starts, "seconds": {"step": seconds}}


STOPPED = {
    "status": "preempted",
    "started": 100.0,
    "wall_seconds": 50.0,
    "test_accuracy": 0.5,
    "steps": 40,
    "epochs": 1.0,
    "examples_per_second": 1000.0,
    "goodput": timer(1, 45.0),
}


@pytest.mark.parametrize(
    ("ending", "held", "status"),
    [
        ({"begun": 200.0, "exit_code": None}, True, "running"),
        ({"begun": 200.0, "exit_code": None}, False, "interrupted"),
        ({"begun": 200.0, "exit_code": 70, "error": "ended by SIGKILL"}, False, "failed"),
        ({"begun": 200.0, "exit_code": 75, "error": "ended before it began"}, False, "preempted"),
        ({"begun": 99.0, "exit_code": 75}, False, "preempted"),  # resumed by hand, and killed
    ],
)
def test_a_member_shows_no_figures_of_an_earlier_start(ending, held, status, tmp_path):
    directory = tmp_path / "m"
    (directory / "checkpoints").mkdir(parents=True)
    write(directory / "summary.json", **STOPPED)
    write(directory / "goodput.json", **timer(2, 75.0))
    write(directory / "member.json", **ending)
    points = [{"step": n, "split": "eval", "accuracy": n / 100, "loss": 1.0} for n in (40, 80)]
    (directory / "metrics.jsonl").write_text("".join(f"{json.dumps(p)}\n" for p in points))
    with lock.hold(directory) if held else nullcontext():
        found = trial.result(tmp_path, "m", {})
    assert found.status == status
    assert (found.test_accuracy, found.steps) == (0.8, 80)
    assert (found.seconds, found.starts) == (75.0, 2)
    assert (found.epochs, found.examples_per_second) == (None, None)


@pytest.mark.parametrize("begun", [99.0, 105.0])  # of a sweep; of a job array
@pytest.mark.parametrize("ending", [{"exit_code": 75, "error": "SIGTERM"}, {"exit_code": None}])
def test_a_member_shows_the_figures_of_its_last_start(ending, begun, tmp_path):
    write(tmp_path / "m" / "summary.json", **STOPPED)
    write(tmp_path / "m" / "goodput.json", **timer(1, 45.0))
    write(tmp_path / "m" / "member.json", begun=begun, **ending)
    found = trial.result(tmp_path, "m", {})
    assert (found.status, found.test_accuracy, found.steps) == ("preempted", 0.5, 40)
    assert (found.seconds, found.starts, found.epochs) == (45.0, 1, 1.0)


DAMAGED = [
    ("sweep.json", {"members": []}),
    ("sweep.json", {"fixed": [], "members": []}),
    ("sweep.json", {"fixed": [], "members": {"a": 1}}),
    ("sweep.json", {"fixed": [], "members": {"a": {"optim.lr": 1}}}),
    ("sweep.json", {"fixed": [1], "members": {}}),
]


@pytest.mark.parametrize(("file", "content"), DAMAGED)
def test_a_damaged_plan_is_named_and_mended_by_the_same_command(file, content, tmp_path):
    write(tmp_path / file, **content)
    with pytest.raises(ConfigError, match="a damaged one"):
        command.main([str(tmp_path)], StopRequest())
    made = make("optim.lr=1,2")
    sweep_folder.write_plan(tmp_path, made.fixed, made.members)
    assert list(sweep_folder.read_members(tmp_path)) == ["optim.lr=1", "optim.lr=2"]


@pytest.mark.parametrize(
    "summary",
    [
        {"status": "stopped", "started": 1.0},
        {"status": "failed", "started": None, "error": ["x"]},
        {"status": "completed", "test_accuracy": "NaN", "test_loss": "NaN", "steps": "many"},
        {"status": "completed", "test_accuracy": True, "weights_sha256": 3, "epochs": {}},
        {"status": "completed", "goodput": 3},
        {"status": "completed", "goodput": {"seconds": {"step": "x"}, "starts": []}},
        {"status": "completed", "goodput": {"seconds": 3}},
    ],
)
def test_a_damaged_summary_is_shown_as_far_as_it_goes(summary, tmp_path, capsys):
    made = make("optim.lr=1,2")
    sweep_folder.write_plan(tmp_path, made.fixed, made.members)
    write(tmp_path / "optim.lr=1" / "summary.json", **summary)
    assert command.main([str(tmp_path)], StopRequest()) == 0
    assert command.main([str(tmp_path), "--json"], StopRequest()) == 0
    told = capsys.readouterr().out
    shown = json.loads(told[told.index("{") :], parse_constant=pytest.fail)
    by_name = {member["name"]: member for member in shown["members"]}
    assert by_name["optim.lr=2"]["status"] == "waiting"
    found = by_name["optim.lr=1"]
    assert found["status"] == ("completed" if summary["status"] == "completed" else "waiting")
    assert (found["test_accuracy"], found["steps"]) == (None, None)
    assert found["test_loss"] in (None, "NaN")


def test_a_folder_without_a_sweep_is_named(tmp_path):
    (tmp_path / "sweep.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"no sweep\.json|is no sweep"):
        command.main([str(tmp_path)], StopRequest())


# The plot.


def some_results(values):
    rng = random.Random(0)
    return [
        Result(str(i), {**v, "run.seed": str(s)}, "completed", rng.uniform(0.8, 0.9), 0.1)
        for i, v in enumerate(values)
        for s in range(3)
    ]


@pytest.mark.parametrize(
    "values",
    [
        [{"optim.lr": "0.01"}, {"optim.lr": "0.1"}],
        [{"optim.lr": lr, "optim.momentum": m} for lr in ("0.1", "0.2") for m in ("0.8", "0.9")],
        [{"optim.schedule": "constant"}, {"optim.schedule": "warmup_linear"}],
        [{"optim.lr": "0.1", "optim.momentum": str(m / 20)} for m in range(20)],
        [{"a": str(a), "b": f"b{b}"} for a in range(2) for b in range(12)],
        [{}],
    ],
)
def test_the_plot_is_drawn(values):
    with Image.open(io.BytesIO(plot.draw(some_results(values)))) as drawn:
        assert drawn.format == "PNG"
        assert len(drawn.convert("RGB").getcolors(1 << 24)) > 10


def test_nothing_is_drawn_of_nothing():
    assert plot.draw([Result("a", {"optim.lr": "1"}, "waiting")]) is None


def test_the_plot_has_what_was_completed_while_it_was_drawn(tmp_path, monkeypatch):
    made = make("optim.lr=1,2,3")
    sweep_folder.write_plan(tmp_path, made.fixed, made.members)
    first, second, third = (tmp_path / member.name for member in made.members)
    write(first / "summary.json", status="completed", test_accuracy=0.5)
    draw, drawn = plot.draw, []

    def slowly(found):
        drawn.append(draw(found))
        if len(drawn) == 1:  # another task of the array ends, and a third goes on
            write(second / "summary.json", status="completed", test_accuracy=0.6)
        write(third / "goodput.json", **timer(1, len(drawn)))
        return drawn[-1]

    monkeypatch.setattr(plot, "draw", slowly)
    assert command.main([str(tmp_path)], StopRequest()) == 0
    assert len(drawn) == 2
    assert drawn[0] != drawn[1] == draw(sweep_folder.results(tmp_path))
    assert (tmp_path / "sweep.png").read_bytes() == drawn[1]
