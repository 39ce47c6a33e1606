"""Every kind of data set on disk trains, evaluates, resumes, predicts and exports by its names."""

import json

import pytest
from support import data_folders
from support.data_folders import NAMES
from support.in_process import ended, summary_of, train

from trainer.commands import evaluate, predict
from trainer.export import command as export
from trainer.job.signals import StopRequest

SMALL = ("+experiment=smoke", "run.dir=run", "run.quiet=true", "model.hidden_sizes=[16]")
SMALL += ("train.epochs=40", "train.global_batch_size=20", "checkpoint.every_epochs=10")
SMALL += ("train.steps_per_dispatch=3", "train.pictures_every_epochs=40")
SMALL += ("train.eval_every_epochs=20", "optim.lr=0.05", "data.validation_fraction=0.2")
NAMED = f"data.class_names=[{','.join(NAMES)}]"
KINDS = {
    "idx": (data_folders.idx, ("data.num_classes=5", NAMED)),
    "images": (data_folders.pictures, ()),
    "huggingface": (data_folders.huggingface, ()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_evaluates_resumes_predicts_and_exports(tmp_path, kind):
    write, options = KINDS[kind]
    write(tmp_path / "data")
    job = (*SMALL, f"data={kind}", "data.root=data", "data.cache_dir=cache", *options)
    stopped = train(tmp_path, *job, "train.max_steps=30")
    assert stopped.returncode == 0, stopped.stderr
    done = train(tmp_path, *job)
    assert done.returncode == 0, done.stderr
    summary = summary_of(tmp_path)
    assert summary["resumed_from_step"] == 30
    assert summary["test_accuracy"] == 1

    def command(main, *words):
        done = ended(tmp_path, lambda: main([*words], StopRequest()))
        assert done.returncode == 0, done.stderr
        return done.stderr

    text = command(evaluate.main, "run")
    rows = [line.split() for line in text.splitlines() if line.split()[:1] in [[n] for n in NAMES]]
    # Of the classes, and of the matrix, whose header begins with the first name.
    assert [row[0] for row in rows] == [*NAMES, NAMES[0], *NAMES]
    assert [row[1] for row in rows[:5]] == ["12"] * 5  # examples
    text = command(predict.main, "run", str(picture(tmp_path, kind)))
    assert text.splitlines()[-1].split()[1] == "coat"
    command(export.main, "run", "exported")
    index = json.loads((tmp_path / "exported" / "model.json").read_text())
    assert index["class_names"] == NAMES
    assert "2 coat" in (tmp_path / "exported" / "MODEL_CARD.md").read_text()


def picture(folder, kind):
    """Write the picture of a coat, which no data set has."""
    images, labels = data_folders.examples(10, seed=7)
    (image,) = images[labels == 2][:1]
    path = folder / "coat.png"
    path.write_bytes(data_folders.png(data_folders.grey(image) if kind == "idx" else image))
    return path
