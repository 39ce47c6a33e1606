"""Naming and ranking trials, the folder of a sweep, searching: without training anything."""

import csv
import json
import math
import random
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from trainer import __main__ as program
from trainer.config.compose import compose_each
from trainer.job import directory, lock
from trainer.job.errors import ConfigError, Preempted
from trainer.job.signals import StopRequest
from trainer.sweep import command, launcher, plan, report
from trainer.sweep import folder as sweep_folder
from trainer.sweep.folder import Result, Trial

keys = st.sampled_from(["optim.lr", "model.hidden_sizes", "+experiment", "data.root", "run.seed"])
texts = st.text(max_size=12) | st.sampled_from(["[1,2]", "a,b=c", "../x", "a/b", "'q'", "%2F", ""])
value_dicts = st.dictionaries(keys, texts | st.integers(60, 300).map("w".__mul__), min_size=1)
PLAN = plan.Plan(Path("/sweep"), ["train.epochs=1"], [], {}, [], [], [])


@given(value_dicts)
def test_a_name_is_a_plain_folder_name_whatever_the_values_are(values):
    name = PLAN.trial(values).name
    assert name.isascii()
    assert len(name) <= 120
    assert not set(name) & set("/\\\0 '\"$`*?{}()<>|;&!#")
    assert not name.startswith((".", "-"))


@given(st.lists(keys, min_size=1, unique=True).flatmap(
    lambda chosen: st.tuples(*[st.fixed_dictionaries(dict.fromkeys(chosen, texts))] * 2)
))  # fmt: skip
def test_no_two_combinations_of_values_have_one_name(pair):
    one, other = (PLAN.trial(values).name for values in pair)
    assert (one == other) == (pair[0] == pair[1])


@given(value_dicts, st.randoms())
def test_a_name_does_not_depend_on_the_order_of_the_options(values, rng):
    items = list(values.items())
    rng.shuffle(items)
    assert PLAN.trial(dict(items)) == PLAN.trial(values)


def test_the_names_of_a_usual_sweep():
    trial = PLAN.trial({"run.seed": "0", "optim.lr": "0.02"})
    own = ("train.epochs=1", "optim.lr=0.02", "run.seed=0")
    assert trial.overrides == (*own, "run.dir='/sweep/optim.lr=0.02,run.seed=0'")
    assert PLAN.trial({"data.root": "/a b"}).name == "data.root=%2Fa%20b"
    assert PLAN.trial({"model.hidden_sizes": "[16,8]"}).name == "model.hidden_sizes=[16,8]"
    assert PLAN.trial({"data.root": "\udcff"}).name == "data.root=%FF"  # a byte that is no UTF-8


made_results = st.lists(
    st.builds(
        lambda lr, seed, status, score, tested: Result(
            f"{lr},{seed}",
            {"optim.lr": lr, "run.seed": seed},
            status,
            score=score,
            test_score=tested,
        ),
        st.sampled_from(["0.1", "0.2"]),
        st.sampled_from("0123"),
        st.sampled_from(sweep_folder._ORDER),
        st.floats(0, 1),
        st.floats(0, 1),
    ),
    max_size=12,
)


@given(made_results)
def test_completed_trials_come_first_and_best_first(results):
    ranked = sweep_folder.rank(results)
    assert sorted(id(result) for _, result in ranked) == sorted(map(id, results))
    completed = [r.score for place, r in ranked if place is not None]
    assert completed == sorted(completed, reverse=True)
    assert [place for place, _ in ranked[: len(completed)]] == [*range(1, len(completed) + 1)]
    assert all((r.status == "completed") == (place is not None) for place, r in ranked)


def test_a_score_that_is_not_a_number_is_the_worst():
    scores = [float("nan"), 0.2, 0.1]
    results = [Result(str(x), {}, "completed", score=x) for x in scores]
    assert [r.score for _, r in sweep_folder.rank(results)][:2] == [0.2, 0.1]


def test_the_test_split_ranks_nothing():
    """Of two trials without a validation split, and of two that are equal on it."""
    for score in (None, 0.5):
        results = [
            Result(str(tested), {}, "completed", score=score, test_score=tested)
            for tested in (0.1, 0.9)
        ]
        ranked = sweep_folder.rank(results)
        assert [result.test_score for _, result in ranked] == [0.1, 0.9]
        assert [place for place, _ in ranked] == ([None, None] if score is None else [1, 2])
        (group,) = sweep_folder.groups(results)
        assert (group.mean, group.test_mean) == (score, 0.5)


@given(made_results)
def test_a_group_is_the_completed_trials_that_differ_only_in_the_seed(results):
    for group in sweep_folder.groups(results):
        own = [
            (r.score, r.test_score)
            for r in results
            if r.status == "completed" and r.values["optim.lr"] == group.values["optim.lr"]
        ]
        assert group.seeds == len(own)
        for scores, mean, spread in zip(
            zip(*own, strict=True), group[2:6:2], group[3:6:2], strict=True
        ):
            assert mean == pytest.approx(statistics.fmean(scores))
            assert (spread is None) == (len(scores) == 1)
            if len(scores) > 1:
                assert spread == pytest.approx(statistics.stdev(scores))
    counted = sum(group.seeds for group in sweep_folder.groups(results))
    assert counted == sum(r.status == "completed" for r in results)


# The command line.


def make(*overrides):
    return plan.make(["+experiment=smoke", *overrides])


def test_a_command_names_its_trials_and_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = make("optim.lr=0.02,5e-2", "run.seed=range(0,2)", "train.epochs=1")
    names = [f"optim.lr={lr},run.seed={seed}" for lr in ("0.02", "0.05") for seed in (0, 1)]
    assert [trial.name for trial in made.trials] == names
    assert [job.config.optim.lr for job in made.jobs] == [0.02, 0.02, 0.05, 0.05]
    assert made.fixed == ["+experiment=smoke", "train.epochs=1"]
    assert made.folder.parent == tmp_path / "runs" / "smoke"
    again = make("run.seed=range(0,2)", "train.epochs=1", "optim.lr=0.02,0.05", "run.quiet=true")
    assert again.folder == made.folder
    assert {trial.name for trial in again.trials} == set(names)
    assert len(make("optim.lr=0.1,1e-1").trials) == 1  # the same value twice
    one = "optim.lr=choice(0.02)"
    others = ([one], [one, "train.epochs=1"], ["optim.lr=choice(1)"])
    assert len({make(*other).folder for other in others}) == 3
    assert make(one, "run.name=mine").folder == tmp_path / "runs" / "smoke" / "mine"
    assert make(one, "run.root=a").folder.parent == tmp_path / "a" / "smoke"
    assert make(one, "run.dir=here").folder == tmp_path / "here"
    both = plan.make(["+experiment=glob(*,exclude=mlp_*)", "run.name=both"])
    assert both.folder == tmp_path / "runs" / "several" / "both"
    assert [job.experiment for job in both.jobs] == ["mlp", "smoke"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("root", ["~/mnist", "/data(1)", "/it's, [x]", "/a b", "12e4567", "/a=b"])
def test_a_folder_is_what_it_is_in_a_single_run(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = root if "," not in root else "'/it\\'s, [x]'"
    made = make(f"data.root={given}", f"run.root={given}", "run.seed=0,1")
    assert made.fixed == ["+experiment=smoke", f"data.root={given}"]
    assert made.folder.parent == Path(root).expanduser().absolute() / "smoke"
    assert [job.config.data.root for job in made.jobs] == [root] * 2
    folders = [str(made.folder / f"run.seed={seed}") for seed in (0, 1)]
    assert [job.config.run.dir for job in made.jobs] == folders


def test_the_folder_of_a_sweep_keeps_its_name():
    made = make("optim.lr=0.02,0.05", "run.seed=0,1", "data.root=/a/b", "run.root=/runs")
    assert str(made.folder) == "/runs/smoke/sweep-2ea2b77e66"
    made = make("run.seed=choice(3)", "data.root=/a/b", "run.root=/runs")
    assert str(made.folder) == "/runs/smoke/sweep-31819381c2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.epochs=1"], "no option has several values"),
        (["optim.lr=0.1,-1"], "optim.lr=-1.0: use a finite number above 0"),
        (["optim.lrr=0.1,0.2"], "did you mean optim.lr?"),
        (["optim.lr=["], "optim.lr=["),
        (["optim.lr=interval(0.1,0.2)"], "hydra/sweeper=search"),
        (["run.name=a,b"], "run.name is the same in all trials"),
        (["run.quiet=true,false"], "run.quiet is the same in all trials"),
        (["cluster.kind=auto,single"], "cluster.kind is the same in all trials"),
        (["optim.lr=1,2", "hydra.sweep.dir=x"], "run.dir place the sweep"),
        (["optim.lr=1,2", "hydra/launcher=joblib"], "hydra/launcher=joblib"),
        (["optim.lr=1,2", "hydra/sweeper=optuna"], "hydra/sweeper=search"),
        (["optim.lr=1,2", "--cfg", "job"], "python -m trainer -m --help"),
        (["optim.lr=1,2", "--member", "2"], "--member 2: the sweep has 2 trials: use 0 to 1"),
        (["optim.lr=1,2", "--member", "-1"], "--member -1"),
        (["optim.lr=1,2", "--member", "x"], "--help"),
        (["hydra/sweeper=search", "--member", "0", "optim.lr=1,2"], "leave out --members"),
        (["hydra/sweeper=search", "train.epochs=1"], "no option has several values"),
        (["hydra/sweeper=search", "optim.lr=1,2", "hydra.sweep.dir=x"], "hydra.sweep.dir=x"),
        (["hydra/sweeper=search", "optim.lr=1,2", "hydra.sweeper.params=1"], "sweeper.params"),
        (["hydra/sweeper=search", "optim.lr=1,2", "hydra.sweeper.n_trials=x"], "n_trials=x: use"),
        (["hydra/sweeper=search", "optim.lrr=interval(1,2)"], "did you mean optim.lr?"),
    ],
)
def test_a_wrong_command_line_is_refused_at_once(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        command.multirun(["-m", "+experiment=smoke", *arguments], StopRequest())
    assert message in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sweep"),
    [
        (["-m", "optim.lr=1,2"], True),
        (["optim.lr=1,2", "--multirun"], True),
        (["--multi", "optim.lr=1,2"], True),
        (["hydra.mode=MULTIRUN", "optim.lr=1,2"], True),
        (["optim.lr=1"], False),
        (["--mode", "optim.lr=1"], False),
    ],
)
def test_when_a_command_line_asks_for_a_sweep(arguments, sweep):
    assert program._asks_for_sweep(arguments) == sweep


def test_a_sweep_of_several_processes_is_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    with pytest.raises(ConfigError, match=r"2 processes were started.*\n?.*--member"):
        command.multirun(["-m", "+experiment=smoke", "optim.lr=1,2"], StopRequest())
    assert not list(tmp_path.iterdir())


def test_the_sweep_itself_does_not_import_jax():
    code = "import sys; from trainer.sweep import command, search; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_trials_are_listed(capsys):
    assert command.multirun(["--members", "-m", "optim.lr=1,2", "run.seed=0"], StopRequest()) == 0
    assert capsys.readouterr().out == "0  optim.lr=1\n1  optim.lr=2\n"


@pytest.mark.parametrize("function", [command.multirun, command.main])
def test_help(function, capsys):
    with pytest.raises(SystemExit) as ended:
        function(["--help"], StopRequest())
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "sweep.csv" in out
    assert "exit codes" in out


# The folder of a sweep, whatever state it was left in.


def write(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def finish(trial, accuracy=0.5, *changes):
    """Leave behind what a finished trial does, but for changes to its options."""
    folder = Path(trial.overrides[-1].removeprefix("run.dir='").removesuffix("'"))
    write(folder / "summary.json", status="completed", validation_accuracy=accuracy, started=1.0)
    config = OmegaConf.create(smoke(*changes))
    for option, value in trial.values.items():
        OmegaConf.update(config, option, yaml.safe_load(value))
    (folder / ".hydra").mkdir(exist_ok=True)
    (folder / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(config))


@cache
def smoke(*overrides):
    (job,) = compose_each([["+experiment=smoke", *overrides]])
    return job.record["config.yaml"]


def test_a_named_folder_takes_more_values_but_no_other_sweep(tmp_path):
    def at_work(*overrides):
        made = make(*overrides, f"run.dir={tmp_path}")
        sweep_folder.add(made.folder, made.fixed, made.trials)

    at_work("model.hidden_sizes=[16],[16,8]", "optim.lr=1,2")
    at_work("optim.lr=choice(3)", "model.hidden_sizes=choice([ 8 ])", "run.quiet=true")
    names = [trial.name for trial in sweep_folder.results(tmp_path)]
    assert len(names) == 5
    assert names[-1] == "model.hidden_sizes=[8],optim.lr=3"
    with pytest.raises(ConfigError, match=r"train\.epochs=9: on this command line only"):
        at_work("model.hidden_sizes=[16],[16,8]", "optim.lr=1,2", "train.epochs=9")
    with pytest.raises(ConfigError, match=r"optim\.lr=\.\.\.: in that sweep only"):
        at_work("model.hidden_sizes=[16],[16,8]")
    assert [trial.name for trial in sweep_folder.results(tmp_path)] == names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.hidden_sizes=[24]", "model.hidden_sizes: [24] in the finished trial, ["),
        ("train.epochs=7", "train.epochs: 7 in the finished trial, "),
        ("optim.momentum=0.3", "optim.momentum: 0.3 in the finished trial, "),
        (
            "data.shuffle=false",
            "data.shuffle: False in the finished trial, True in this configuration",
        ),
        ("run.quiet=true", None),
        ("data.root=/elsewhere", None),
        ("train.log_every_steps=3", None),
    ],
)
def test_finished_trials_of_another_configuration_are_refused(change, message, tmp_path):
    first = make("run.seed=3,4", f"run.dir={tmp_path}")
    sweep_folder.add(tmp_path, first.fixed, first.trials)
    for trial in first.trials:
        finish(trial, 0.5, change)
    command_line = ["+experiment=smoke", "run.seed=5,6", f"run.dir={tmp_path}"]
    if message is None:
        assert len(plan.make(command_line).trials) == 2
        return
    for flags in ([], ["--member", "0"]):
        with pytest.raises(ConfigError, match=r"start another sweep with run\.name=NAME") as raised:
            command.multirun(["-m", *flags, *command_line], StopRequest())
        assert f"run.seed=3: {message}" in str(raised.value)
    assert len(sweep_folder.results(tmp_path)) == 2


def test_a_sweep_and_a_single_run_do_not_mix(tmp_path):
    run, sweep = tmp_path / "run", tmp_path / "sweep"
    write(run / "summary.json")
    with pytest.raises(ConfigError, match=r"is the directory of a single run.*run\.name=NAME"):
        make("run.seed=0,1", f"run.dir={run}")
    write(sweep / "sweep.json")
    with pytest.raises(ConfigError, match=r"is the folder of a sweep.*run\.name=NAME"):
        directory.create(sweep)


def test_the_state_of_a_trial_is_read_from_its_folder(tmp_path):
    def status(name):
        return sweep_folder.result(tmp_path, name, {}).status

    assert status("none") == "waiting"
    (tmp_path / "killed" / "checkpoints" / "3").mkdir(parents=True)
    assert status("killed") == "interrupted"
    with lock.hold(tmp_path / "killed"):
        assert status("killed") == "running"
    write(tmp_path / "done" / "summary.json", status="completed", test_loss="NaN", started=1.0)
    assert status("done") == "completed"
    assert math.isnan(sweep_folder.result(tmp_path, "done", {}).test_loss)
    write(tmp_path / "stopped" / "member.json", begun=1.0, exit_code=75, error="SIGTERM")
    assert status("stopped") == "preempted"
    write(tmp_path / "bad" / "member.json", begun=1.0, exit_code=70, error="not finite")
    assert status("bad") == "failed"
    assert sweep_folder.result(tmp_path, "bad", {}).error == "not finite"
    # A process of several leaves at once when another is lost: only its summary tells.
    write(tmp_path / "lost" / "member.json", begun=1.0, exit_code=None, error=None)
    write(tmp_path / "lost" / "summary.json", status="failed", error="lost", started=2.0)
    assert status("lost") == "failed"
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "summary.json").write_text('{"status": "comp')
    assert status("torn") == "waiting"


@pytest.mark.parametrize(("starts", "figures"), [(2, (0.8, 80, None)), (1, (0.5, 40, 1.0))])
def test_a_trial_shows_no_figures_of_an_earlier_start(starts, figures, tmp_path):
    goodput = {"starts": starts, "seconds": {"step": 45.0, "compile": 30.0}}
    write(tmp_path / "m" / "goodput.json", **goodput)
    stopped = {"status": "preempted", "started": 100.0, "wall_seconds": 50.0, "epochs": 1.0}
    stopped |= {"validation_accuracy": 0.5, "steps": 40, "goodput": {**goodput, "starts": 1}}
    write(tmp_path / "m" / "summary.json", **stopped)
    (tmp_path / "m" / "checkpoints" / "40").mkdir(parents=True)
    points = [
        {"time": 1.0, "step": n, "split": s, "accuracy": n / 100}
        for n in (40, 80)
        for s in ("train", "validation")
        for n in (40, 80)
        for s in ("train", "validation")
    ]
    (tmp_path / "m" / "metrics.jsonl").write_text("".join(f"{json.dumps(p)}\n" for p in points))
    result = sweep_folder.result(tmp_path, "m", {})
    assert result.status == ("interrupted" if starts == 2 else "preempted")
    assert (result.score, result.steps, result.epochs) == figures
    assert (result.seconds, result.starts) == (75.0, starts)


def test_a_task_without_an_accuracy_is_ranked_by_its_loss(tmp_path, capsys):
    made = make("optim.lr=0.1,0.2,0.3", "run.seed=0,1", f"run.dir={tmp_path}")
    sweep_folder.add(tmp_path, made.fixed, made.trials)
    # The first has not been tested, so it does not know by what it is ranked.
    for trial, loss in zip(made.trials[1:], (2.0, 1.5, 0.5, "NaN", 0.25), strict=True):
        finish(trial, None)
        tested = {"validation_loss": loss, "test_loss": 1.0, "best": "loss:min"}
        write(tmp_path / trial.name / "summary.json", status="completed", started=1.0, **tested)
    ranked = [(r.name, r.score) for _, r in sweep_folder.rank(sweep_folder.results(tmp_path))]
    assert [score for _, score in ranked[:4]] == [0.25, 0.5, 1.5, 2.0]
    assert math.isnan(ranked[4][1])  # the worst of those that completed
    assert ranked[5] == (made.trials[0].name, None)
    assert command.main([str(tmp_path)], StopRequest()) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["rank", "optim.lr", "run.seed", "status", "validation", "loss",
                              "test", "loss", "steps", "examples/s", "time"]  # fmt: skip
    assert out[1].split()[:6] == ["1", "0.3", "1", "completed", "0.2500", "1.0000"]
    heads = ["optim.lr", "seeds", "validation", "loss", "spread", "test", "loss", "spread"]
    assert out[8].split() == heads
    assert [line.split() for line in out[9:12]] == [
        ["0.2", "2", "1.0000", "0.7071", "1.0000", "0.0000"],
        ["0.1", "1", "2.0000", "-", "1.0000", "-"],
        ["0.3", "2", "nan", "nan", "1.0000", "0.0000"],
    ]
    assert (tmp_path / "sweep.png").exists()


def test_a_metric_of_the_task_is_ranked_in_the_direction_of_checkpoint_best():
    for best, order in (("f1:max", [0.9, 0.5, 0.1]), ("errors:min", [0.1, 0.5, 0.9])):
        results = [Result(str(x), {}, "completed", best=best, score=x) for x in (0.5, 0.9, 0.1)]
        assert [r.score for _, r in sweep_folder.rank(results)] == order


@pytest.mark.parametrize("content", [None, "[]", '{"members": {'])
def test_a_folder_without_a_sweep_is_named(content, tmp_path):
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(ConfigError, match=r"sweep\.json is missing or damaged"):
        command.main([str(tmp_path)], StopRequest())
    made = make("optim.lr=1,2", f"run.dir={tmp_path}")  # the sweep's own command writes it again
    warnings = []
    sweep_folder.add(tmp_path, made.fixed, made.trials, warnings.append)
    assert len(warnings) == (content is not None)
    assert command.main([str(tmp_path)], StopRequest()) == 0


def test_the_table_the_csv_and_the_json_say_the_same(tmp_path, capsys):
    made = make("optim.lr=0.1,0.2", "run.seed=0,1", f"run.dir={tmp_path}")
    sweep_folder.add(tmp_path, made.fixed, made.trials)
    for trial, accuracy in zip(made.trials, (0.5, 0.6, 0.9), strict=False):
        finish(trial, accuracy)
    error = "x" * 80 + "\n"
    write(tmp_path / made.trials[3].name / "member.json", exit_code=70, error=error)
    assert command.main([str(tmp_path)], StopRequest()) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["rank", "optim.lr", "run.seed", "status", "validation", "accuracy",
                              "test", "accuracy", "steps", "examples/s", "time"]  # fmt: skip
    assert [line.split()[:5] for line in out[1:4]] == [
        ["1", "0.2", "0", "completed", "90.00%"],
        ["2", "0.1", "1", "completed", "60.00%"],
        ["3", "0.1", "0", "completed", "50.00%"],
    ]
    assert out[4].split()[-1] == "x" * 60
    heads = ["optim.lr", "seeds", "validation", "accuracy", "spread", "test", "accuracy", "spread"]
    assert out[6].split() == heads
    assert out[7].split() == ["0.2", "1", "90.00%", "-", "-", "-"]
    assert out[8].split() == ["0.1", "2", "55.00%", "7.07%", "-", "-"]
    assert out[9:] == [str(tmp_path / "sweep.csv"), str(tmp_path / "sweep.png")]
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2", "3", ""]
    assert rows[3]["error"] == error
    assert command.main([str(tmp_path), "--json"], StopRequest()) == 0
    shown = json.loads(capsys.readouterr().out)
    for row, member in zip(rows, shown["members"], strict=True):
        assert row["member"] == member["name"]
        assert {key: row[key] for key in member["values"]} == member["values"]
        for field in Result._fields[2:]:
            assert row[field] == ("" if member[field] is None else str(member[field]))
    assert [group["mean"] for group in shown["groups"]] == [0.9, 0.55]


@pytest.mark.parametrize("count", [1, 40])
def test_the_plot_is_drawn(count, tmp_path, monkeypatch):
    rng = random.Random(0)
    values = [{"optim.lr": str(n), "run.seed": str(seed)} for n in range(count) for seed in (0, 1)]
    results = [Result(str(v), v, "completed", score=rng.uniform(0.8, 0.9)) for v in values]
    (tmp_path / "plot.png").write_bytes(
        report.draw(sweep_folder.groups(results), "validation", "accuracy")
    )
    with Image.open(tmp_path / "plot.png") as drawn:
        assert drawn.format == "PNG"
        assert drawn.height >= 25 * count
        assert len(drawn.convert("RGB").getcolors(1 << 24)) > 10


# Launching, with trials that take no time.


class Trials:
    """Stands for the child processes: notes which trials are trained, and finishes them."""

    def __init__(self, monkeypatch, folder):
        self.folder, self.trained, self.codes = folder, [], {}
        monkeypatch.setattr(launcher, "_train", self.train)

    def train(self, folder: Path, trial: Trial, stop, look):
        assert lock.held(folder, "sweep.lock")
        self.trained.append(trial)
        code = self.codes.get(len(self.trained), 0)
        write(folder / trial.name / "member.json", exit_code=code, error="broken" if code else None)
        if code == 0:
            finish(trial, 1 - abs(float(trial.values.get("optim.lr", 0)) - 0.07))
        return code, "broken" if code else None

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
