"""`runs` lists finished runs, the newest first, as a table and as JSON."""

import json
import subprocess
import sys

import pytest
from support.trained_runs import copy, edit

from trainer.commands import runs
from trainer.job.errors import EXIT_CONFIG, ConfigError
from trainer.job.signals import StopRequest

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_a_finished_run(smoke_run, listed):
    summary = json.loads((smoke_run / "summary.json").read_text())
    (run,) = listed(smoke_run.parent).values()
    assert run["status"] == "completed"
    assert run["test_accuracy"] == summary["test_accuracy"]
    assert run["examples_per_second"] == summary["examples_per_second"]
    assert (run["steps"], run["epochs"], run["dataset"]) == (114, 2, "mnist_5k")
    assert run["newest_checkpoint"] == 114
    assert (run["resumable"], run["note"]) == (False, None)
    assert run["updated"] == pytest.approx(summary["started"] + summary["wall_seconds"])


def test_the_table_has_the_newest_first(smoke_run, tmp_path, capsys):
    for age, name in enumerate(("young", "old", "older")):
        run = copy(smoke_run, tmp_path / "smoke" / name)
        started = json.loads((run / "summary.json").read_text())["started"]
        edit(run / "summary.json", started=started - age * 7200)
    edit(tmp_path / "smoke/old/summary.json", status="failed", error="\x1b[2Jno disk\nmore")
    assert runs.main([str(tmp_path)], StopRequest()) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    heads = ["run", "status", "validation", "test", "examples/s", "steps", "age", "resumable"]
    assert header.split() == heads
    assert [row.split()[0] for row in rows] == ["smoke/young", "smoke/old", "smoke/older"]
    summary = json.loads((smoke_run / "summary.json").read_text())
    accuracies = [f"{summary[f'{split}_accuracy']:.2%}" for split in ("validation", "test")]
    assert rows[0].split()[1:4] == ["completed", *accuracies]
    assert rows[1].split()[-7:-2] == ["114", "2", "h", "step", "114"]
    assert rows[1].endswith(" \N{REPLACEMENT CHARACTER}[2Jno disk")
    assert [row.split()[-1] for row in (rows[0], rows[2])] == ["no", "no"]


def test_a_task_without_an_accuracy_shows_what_it_is_ranked_by(tmp_path, listed, capsys):
    point = {"step": 40, "split": "validation", "time": 1.0, "loss": 0.25, "f1": 0.5}
    summary = {"status": "completed", "started": 1.0, "test_loss": 0.5, "test_f1": 0.7}
    summary |= {"validation_loss": 0.125, "validation_f1": 0.75}
    for name, best in (("by-loss", "loss:min"), ("by-f1", "f1:max"), ("at-work", None)):
        run = tmp_path / name
        (run / ".hydra").mkdir(parents=True)
        (run / "metrics.jsonl").write_text(json.dumps(point) + "\n")
        if best is not None:  # a start writes it at its end
            (run / "summary.json").write_text(json.dumps({**summary, "best": best}))
    assert runs.main([str(tmp_path)], StopRequest()) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    results = {row.split()[0]: row.split()[2:6] for row in rows}
    assert results["by-loss"] == ["loss", "0.1250", "loss", "0.5000"]
    assert results["by-f1"] == ["f1", "0.7500", "f1", "0.7000"]
    assert results["at-work"][:3] == ["loss", "0.2500", "-"]
    run = listed(tmp_path)["by-f1"]
    assert (run["test_accuracy"], run["best"], run["score"]) == (None, "f1:max", 0.75)
    assert (run["test_score"], run["test_loss"]) == (0.7, 0.5)


@pytest.mark.parametrize("set_to", [None, "", "elsewhere"])
def test_the_default_folder_is_that_of_training(smoke_run, tmp_path, monkeypatch, capsys, set_to):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRAINER_RUN_ROOT", raising=False)
    if set_to is not None:
        monkeypatch.setenv("TRAINER_RUN_ROOT", set_to)
    root = tmp_path / (set_to or "runs")
    copy(smoke_run, root / "smoke" / "a")
    assert runs.main(["--json"], StopRequest()) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["directory"] == str(root)
    assert [run["directory"] for run in result["runs"]] == [str(root / "smoke" / "a")]


def test_a_name_that_the_terminal_cannot_show_is_no_error(smoke_run, trainer, tmp_path):
    copy(smoke_run, tmp_path / "runs" / "ラン")
    shown = trainer("runs", PYTHONIOENCODING="latin-1", PYTHONUTF8="1")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "??   completed" in shown.stdout


def test_one_run_and_no_run(smoke_run, tmp_path, capsys):
    assert runs.main([str(smoke_run)], StopRequest()) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("smoke ")
    assert runs.main([str(tmp_path)], StopRequest()) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"no runs in {tmp_path}\n")
    with pytest.raises(ConfigError, match=r"DIR=.* is not a folder"):
        runs.main([str(tmp_path / "rnus")], StopRequest())


def test_the_command_line(trainer, smoke_run):
    done = trainer("runs", str(smoke_run.parent))
    assert (done.returncode, done.stderr) == (0, "")
    assert "completed" in done.stdout
    assert trainer("runs").returncode == EXIT_CONFIG  # there is no folder `runs`
    assert trainer("runs", "--jsno").returncode == EXIT_CONFIG


def test_nobody_waits_for_jax_to_read_the_help():
    commands = ("evaluate", "export", "predict", "runs")
    code = (
        "import sys; from trainer.__main__ import main\n"
        f"for command in {commands}:\n"
        "    sys.argv = ['trainer', command, '--help']\n"
        "    try: main()\n"
        "    except SystemExit: pass\n"
        "    print(command, 'jax' in sys.modules, 'orbax.checkpoint' in sys.modules)"
    )
    command_line = [sys.executable, "-c", code]
    printed = subprocess.run(command_line, capture_output=True, text=True, check=True).stdout
    for command in commands:
        assert f"usage: python -m trainer {command} " in printed
        assert f"{command} False False\n" in printed
    assert printed.count("\nexamples:\n") == printed.count("\nexit codes:\n") == len(commands)
