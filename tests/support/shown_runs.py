"""Runs as a TensorBoard shows them: one finished, one that a second start resumes."""

from support.board import get

from trainer.tracking import metrics as metrics_log

RUNS = ("finished", "resumed")
EPOCHS, STEPS = 3, 57  # STEPS an epoch
SAVED = STEPS  # the checkpoint that the resumed run resumes from
SMOKE = ("+experiment=smoke", "train.log_every_steps=21")
OPTIONS = {
    "finished": ("optim.lr=0.02", "train.epochs=2", "model.hidden_sizes=[32,16]"),
    "resumed": (
        *(f"train.epochs={EPOCHS}", "train.steps_per_dispatch=1", "train.pictures_every_epochs=1"),
        *("checkpoint.every_epochs=1", "checkpoint.keep_last=9", "parallel.devices=1"),
    ),
}


def is_there(address):
    """Return whether all of the resumed run is there, to its end.

    The start that was cut off left points up to the end, too: those of the second start are there
    once TensorBoard shows that it began.
    """
    run = "resumed/tensorboard"
    starts = get(address, "text/text", run=run, tag="environment/text_summary")
    if len(starts) != 2:
        return False
    ends = {
        "scalars/scalars": "validation/loss",
        "histograms/histograms": "weights/1/bias",
        "images/images": "pictures/test_most_wrong",  # the last, and TensorBoard shows them last
    }
    steps = [steps_of(get(address, route, run=run, tag=tag)) for route, tag in ends.items()]
    return all(each and each[-1] == EPOCHS * STEPS for each in steps)


def steps_of(points):
    return [point["step"] if isinstance(point, dict) else point[1] for point in points]


def logged(folder, run, split):
    points = metrics_log.read(folder / "runs" / run / "metrics.jsonl")
    return [point for point in points if point["split"] == split]


def expected_steps(run):
    return [STEPS * i for i in range(1, (2 if run == "finished" else EPOCHS) + 1)]
