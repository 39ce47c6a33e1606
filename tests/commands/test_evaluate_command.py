"""`evaluate` finds what the run found, class by class, and touches no checkpoint."""

import gzip
import json
import shutil

import numpy as np
import pytest
from support.harm import flip_a_bit, own_disk
from support.trained_runs import copy, damage, everything, train_here, train_on_three_kinds

from trainer.checkpoint import load_model
from trainer.commands import evaluate
from trainer.formats import idx
from trainer.job import lock
from trainer.job.errors import EXIT_CONFIG, EXIT_DATA, ConfigError, DataError, SaveError
from trainer.job.signals import StopRequest
from trainer.sources.mnist import FILES

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def evaluated(capsys, monkeypatch):
    """Runs the command with --json; returns the report and the other messages."""
    monkeypatch.setattr("sys.excepthook", lambda *_: None)  # restored after the test

    def call(*arguments):
        assert evaluate.main([str(a) for a in (*arguments, "--json")], StopRequest()) == 0
        message = capsys.readouterr()
        return json.loads(message.out), message.err

    return call


def write_test_files(folder, images, labels):
    """The two files of a test split, one of them packed."""
    folder.mkdir(exist_ok=True)
    data = idx.header(images.shape) + images.tobytes()
    (folder / f"{FILES[2]}.gz").write_bytes(gzip.compress(data))
    (folder / FILES[3]).write_bytes(idx.header(labels.shape) + labels.tobytes())


def test_it_finds_what_the_run_found(mnist_run, mnist_dir, evaluated, tmp_path):
    report, message = evaluated(mnist_run, "--out", tmp_path / "out")
    summary = json.loads((mnist_run / "summary.json").read_text())
    assert message == ""
    assert report["accuracy"] == summary["test_accuracy"]
    assert report["loss"] == pytest.approx(summary["test_loss"], rel=1e-6)
    assert (report["data"], report["examples"]) == ("mnist", 10_000)
    assert report["step"] == summary["steps"]

    images = idx.read_images(mnist_dir / "t10k-images-idx3-ubyte.gz")
    labels = idx.read_labels(mnist_dir / "t10k-labels-idx1-ubyte.gz", 10)
    model = load_model.load(mnist_run, None, print)
    predictions = model.predict({"image": images})["logits"].argmax(axis=1)
    for i in range(10):
        for j in range(10):
            count = np.sum((labels == i) & (predictions == j))
            assert report["confusion"][i][j] == count
        one = report["classes"][i]
        assert one["examples"] == np.sum(labels == i)
        assert one["accuracy"] == pytest.approx(np.mean(predictions[labels == i] == i))
        assert one["precision"] == pytest.approx(np.mean(labels[predictions == i] == i))
    assert json.loads((tmp_path / "out" / f"step-{report['step']}.json").read_text()) == report


def test_the_steps_of_a_run(smoke_run, tmp_path, evaluated):
    run = copy(smoke_run, tmp_path / "run")
    points = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (recorded,) = (p for p in points if p["split"] == "test")
    for step in (57, 114):
        report, _ = evaluated(run, "--step", step)
        assert (report["loss"] == pytest.approx(recorded["loss"], rel=1e-5)) == (step == 114)
    assert report["accuracy"] == recorded["accuracy"]
    assert {path.name for path in (run / "evaluation").iterdir()} == {
        f"step-{step}{end}" for step in (57, 114) for end in (".json", "-confusion.png")
    }
    assert evaluated(run)[0] == report
    with pytest.raises(DataError, match=r"--step 58: .* use one of 57, 114"):
        evaluated(run, "--step", 58)


def test_weights_that_devices_share_are_shared_again(tmp_path, evaluated):
    run, shared = tmp_path / "run", ("parallel.shard_state=all", "parallel.devices=8")
    few = ("+experiment=smoke", "train.epochs=1", "train.global_batch_size=64", f"run.dir={run}")
    assert train_here(*few, *shared) == 0
    summary = json.loads((run / "summary.json").read_text())
    report, _ = evaluated(run)
    assert report["loss"] == summary["test_loss"]  # that of one device ends in other digits
    assert report["accuracy"] == summary["test_accuracy"]


def test_it_may_look_at_a_running_job(smoke_run, tmp_path, evaluated):
    run = copy(smoke_run, tmp_path / "run")
    shutil.rmtree(run / "evaluation", ignore_errors=True)  # of another test
    damage(run, 114)
    before = everything(run / "checkpoints")
    folders = [path for path in [run, *run.rglob("*")] if path.is_dir()]
    with lock.hold(run):
        for folder in folders:
            folder.chmod(0o555)
        try:
            report, message = evaluated(run, "--out", tmp_path / "out")
        finally:
            for folder in folders:
                folder.chmod(0o755)
    assert report["step"] == 57
    assert "checkpoint 114 of" in message
    assert everything(run / "checkpoints") == before
    assert not (run / "evaluation").exists()


def test_a_folder_of_test_images(smoke_run, tmp_path, evaluated, mnist_dir):
    images = idx.read_images(mnist_dir / "t10k-images-idx3-ubyte.gz")[:500]
    labels = idx.read_labels(mnist_dir / "t10k-labels-idx1-ubyte.gz", 10)[:500]
    some = labels < 8
    write_test_files(tmp_path / "mine", images[some], labels[some])
    report, _ = evaluated(smoke_run, "--data", tmp_path / "mine", "--out", tmp_path)
    assert report["data"] == str(tmp_path / "mine")
    assert report["examples"] == np.sum(some)
    assert report["accuracy"] > 0.8
    assert report["classes"][9]["examples"] == 0
    assert report["classes"][9]["accuracy"] is None
    assert len(list(tmp_path.glob("step-114-mine-????????.json"))) == 1
    write_test_files(tmp_path / "mine" / "mine", images[:9], labels[:9])
    evaluated(smoke_run, "--data", tmp_path / "mine" / "mine", "--out", tmp_path)
    evaluated(smoke_run, "--data", tmp_path / "mine", "--out", tmp_path)
    kept = tmp_path.glob("step-114-mine-????????.json")
    assert sorted(json.loads(path.read_text())["examples"] for path in kept) == [9, np.sum(some)]


def test_a_relative_data_root_is_found_from_elsewhere(evaluated, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    run = train_on_three_kinds(tmp_path / "here")  # of its own: it is moved away
    monkeypatch.chdir(tmp_path)
    result, message = evaluated(run, "--out", tmp_path / "out")
    assert (result["examples"], message) == (90, "")

    moved = run.parent.rename(tmp_path / "moved")  # the run and its data
    monkeypatch.chdir(moved)
    assert evaluated("kinds")[0] == {**result, "run": str(moved / "kinds")}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"(?s)data\.root={run.parent}/images: .*--data DIR"):
        evaluated(moved / "kinds")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / FILES[3]).unlink(), "/mine: no t10k-labels"),
        (lambda folder: flip_a_bit(folder / f"{FILES[2]}.gz"), "gzip data are corrupt"),
        (lambda folder: (folder / FILES[3]).write_bytes(b"\0\0\x08\x01\0\0\0\1\x0b"), "label 11"),
        (
            lambda folder: (folder / FILES[3]).write_bytes(b"\0\0\x08\x01\0\0\0\1\1"),
            "3 images but 1 labels",
        ),
        (
            lambda folder: write_test_files(
                folder, np.ones((3, 8, 8), np.uint8), np.ones(3, np.uint8)
            ),
            "image is uint8 N x 8 x 8, but the model was trained on uint8 N x 28 x 28",
        ),
        (
            lambda folder: write_test_files(
                folder, np.ones((3, 14, 56), np.uint8), np.ones(3, np.uint8)
            ),
            "image is uint8 N x 14 x 56, but the model was trained on uint8 N x 28 x 28",
        ),
        (
            shutil.rmtree,
            "the folder cannot be read .No such file or directory.: correct the folder",
        ),
    ],
    ids=["no labels", "corrupt", "labels", "counts", "pixels", "shape", "no folder"],
)
def test_test_images_that_are_wrong(smoke_run, tmp_path, evaluated, harm, message):
    noise = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    write_test_files(tmp_path / "mine", noise, np.ones(3, np.uint8))
    harm(tmp_path / "mine")
    with pytest.raises(DataError, match=message):
        evaluated(smoke_run, "--data", tmp_path / "mine", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_results_that_cannot_be_written(smoke_run, tmp_path, evaluated):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="name a folder with --out FOLDER"):
        evaluated(smoke_run, "--out", tmp_path / "file")
    with own_disk(tmp_path, "ro"), pytest.raises(SaveError, match=r"/out .*Read-only .* storage"):
        evaluated(smoke_run, "--out", tmp_path / "out")


def test_the_command_line(trainer, smoke_run):
    done = trainer("evaluate", str(smoke_run), "--out", "out")
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads((smoke_run / "summary.json").read_text())
    assert f"accuracy   {summary['test_accuracy']:.2%}" in done.stdout
    report = json.loads((trainer.folder / "out" / "step-114.json").read_text())
    lines = done.stdout.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("confusion matrix")) + 2
    for row, line in zip(report["confusion"], lines[first:], strict=False):
        assert line.split()[1:] == [str(count or ".") for count in row]
    assert lines[-1] == f"picture    {trainer.folder / 'out' / 'step-114-confusion.png'}"
    assert trainer("evaluate", "nowhere").returncode == EXIT_CONFIG
    assert trainer("evaluate", str(smoke_run), "--data", ".").returncode == EXIT_DATA
