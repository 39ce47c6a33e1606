"""The PyTorch rivals: the reference loop with DataLoader, tensors sliced by hand, torch.compile.

Needs only torch and numpy. The loop is all they do: no shuffling, no metrics, no saving.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import answer
from benchmarks.precisions import TORCH


def measure(
    arrays: str,
    variant: str,
    sizes: list[int],
    batch_size: int,
    warmup_steps: int,
    steps: int,
    mean: float,
    std: float,
    precision: str,
) -> dict[str, Any]:
    """Train, and return the seconds of a step.

    Args:
        arrays: the folder of train_images.npy and train_labels.npy.
        variant: "loader", "sliced" or "compiled" (sliced, with torch.compile).
        sizes: of the layers, from pixels to classes.
        batch_size: of a step.
        warmup_steps: before the clock starts.
        steps: that are timed.
        mean: of the pixels.
        std: of the pixels.
        precision: of the matrix products, as model.precision names it.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise answer.LeftOut(
            "PyTorch is not installed: pip install torch==2.13.0 into this environment, or "
            "--torch-python PATH"
        ) from None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.set_float32_matmul_precision(TORCH[precision])
    torch.manual_seed(0)
    images = torch.from_numpy(np.load(Path(arrays) / "train_images.npy"))
    labels = torch.from_numpy(np.load(Path(arrays) / "train_labels.npy")).long()

    def by_loader() -> Iterator[Any]:
        from torch.utils.data import DataLoader, TensorDataset

        loader = DataLoader(TensorDataset(images.float(), labels), batch_size=batch_size)
        while True:
            for x, y in loader:
                yield x.to(device), y.to(device)

    def by_hand() -> Iterator[Any]:
        while True:
            # The last batch is as long as the others: another shape would be compiled anew.
            for lo in range(0, len(labels) - batch_size + 1, batch_size):
                part = slice(lo, lo + batch_size)
                yield images[part].to(device).float(), labels[part].to(device)

    nn = torch.nn
    layers: list[Any] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    cross_entropy = nn.CrossEntropyLoss()

    def loss_of(x: Any, y: Any) -> Any:
        return cross_entropy(model((x - mean) / std), y)

    forward = torch.compile(loss_of, dynamic=False) if variant == "compiled" else loss_of
    batches = by_loader() if variant == "loader" else by_hand()

    def train(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            x, y = next(batches)
            optimizer.zero_grad()
            loss = forward(x, y)
            loss.backward()
            optimizer.step()
        last = loss.item()  # waits for the device
        if not np.isfinite(last):
            raise answer.LeftOut(f"the loss is {last}")
        return time.perf_counter() - began

    try:
        train(warmup_steps)
    except RuntimeError as error:
        if variant != "compiled":
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise answer.LeftOut(f"torch.compile does not work here: {reason}") from None
    seconds = train(steps)
    return {
        "seconds_per_step": seconds / steps,
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": str(device),
    }


if __name__ == "__main__":
    answer.serve(measure)
