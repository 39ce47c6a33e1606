"""Exports of runs, and what is in them."""

from trainer.export import command
from trainer.job.signals import StopRequest

FILES = {
    "MODEL_CARD.md",
    "model.json",
    "model.onnx",
    "model.stablehlo",
    "predict.py",
    "weights.safetensors",
}


def export(run, folder):
    """Export a run into a folder; return the export."""
    assert command.main([str(run), str(folder / "digits")], StopRequest()) == 0
    return folder / "digits"
