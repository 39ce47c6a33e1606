"""The PyTorch rivals: the reference loop with DataLoader, tensors sliced by hand, torch.compile.

Needs only torch and NumPy. The loop is all they do: no shuffling, no metrics, no saving.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from benchmarks.workers import LeftOut
from benchmarks.workers.rival import LR, MOMENTUM, TORCH_PRECISION, Job


def measure(variant: str, **arguments: Any) -> dict[str, Any]:
    """Train, and return the seconds of a step; the arguments are those of Job.

    `variant` is "loader", "sliced" or "compiled" (sliced, with torch.compile).
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise LeftOut(
            "PyTorch is not installed: pip install torch==2.13.0 into this environment, or "
            "--torch-python PATH"
        ) from None
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    job = Job(**arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.set_float32_matmul_precision(TORCH_PRECISION[job.precision])
    torch.manual_seed(0)
    images, labels = map(torch.from_numpy, job.load())
    labels = labels.long()

    def batches() -> Iterator[Any]:
        if variant == "loader":
            loader = DataLoader(TensorDataset(images.float(), labels), batch_size=job.batch_size)
            while True:
                yield from ((x.to(device), y.to(device)) for x, y in loader)
        for part in job.slices(len(labels)):
            if part.stop <= len(labels):  # torch.compile would compile the short batch again
                yield images[part].to(device).float(), labels[part].to(device)

    layers: list[Any] = []
    for a, b in itertools.pairwise(job.sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, nesterov=True)
    cross_entropy = nn.CrossEntropyLoss()

    def loss_of(x: Any, y: Any) -> Any:
        return cross_entropy(model((x - job.mean) / job.std), y)

    forward = torch.compile(loss_of, dynamic=False) if variant == "compiled" else loss_of

    def step(batch: Any) -> Any:
        optimizer.zero_grad()
        loss = forward(*batch)
        loss.backward()
        optimizer.step()
        return loss

    try:
        step(next(batches()))
    except RuntimeError as error:
        if variant != "compiled":
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise LeftOut(f"torch.compile does not work here: {reason}") from None
    return {"seconds_per_step": job.seconds_per_step(step, batches(), lambda loss: loss.item())}
