"""The trials of a sweep are ranked, and shown as a table, CSV, JSON and a plot."""

import csv
import json
import math
import random

import pytest
from PIL import Image
from support.sweep_folders import finish, make, write

from trainer.job.signals import StopRequest
from trainer.sweep import command, report
from trainer.sweep import folder as sweep_folder
from trainer.sweep.folder import Result


@pytest.mark.parametrize(("starts", "figures"), [(2, (0.8, 80, None)), (1, (0.5, 40, 1.0))])
def test_a_trial_shows_no_figures_of_an_earlier_start(starts, figures, tmp_path):
    goodput = {"starts": starts, "seconds": {"step": 45.0, "compile": 30.0}}
    write(tmp_path / "m" / "goodput.json", **goodput)
    stopped = {"status": "preempted", "started": 100.0, "wall_seconds": 50.0, "epochs": 1.0}
    stopped |= {"validation_accuracy": 0.5, "steps": 40}
    stopped["environment"] = "2026-01-01T00:00:00+00:00"  # of the first start
    write(tmp_path / "m" / "environment.json", started=f"2026-01-0{starts}T00:00:00+00:00")
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
