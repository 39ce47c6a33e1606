"""The PyTorch rivals: the reference loop with DataLoader, tensors sliced by hand, torch.compile.

Needs only torch and NumPy. The loop is all they do: no shuffling, no metrics, no saving.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.workers import LeftOut
from benchmarks.workers.rival import LR, MOMENTUM, TORCH_PRECISION, Job

try:
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset
except ModuleNotFoundError:
    torch = None


def measure(variant: str, **arguments: Any) -> dict[str, Any]:
    """Train the MLP, and return the seconds of a step; the arguments are those of Job.

    `variant` is "loader", "sliced" or "compiled" (sliced, with torch.compile).
    """
    job, device = _begin(arguments)
    images, labels = map(torch.from_numpy, job.load())
    labels = labels.long()

    def batches() -> Iterator[Any]:
        if variant == "loader":
            loader = DataLoader(TensorDataset(images.float(), labels), batch_size=job.batch_size)
            while True:
                yield from ((x.to(device), y.to(device)) for x, y in loader)
        for part in job.slices(len(labels), whole=True):
            yield images[part].to(device).float(), labels[part].to(device)

    layers: list[Any] = []
    for a, b in itertools.pairwise(job.sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, nesterov=True)
    cross_entropy = nn.CrossEntropyLoss()

    def loss_of(x: Any, y: Any) -> Any:
        return cross_entropy(model((x - job.mean) / job.std), y)

    return _train(job, variant, loss_of, batches, optimizer)


def example(variant: str, **arguments: Any) -> dict[str, Any]:
    """Train the model of an example by AdamW; as `measure`, without "loader"."""
    job, device = _begin(arguments)
    examples = {field: torch.from_numpy(array) for field, array in job.examples().items()}
    model = job.rivals()["pytorch"](job.options, examples).to(device)

    def batches() -> Iterator[Any]:
        for part in job.slices(len(next(iter(examples.values()))), whole=True):
            yield ({field: array[part].to(device) for field, array in examples.items()},)

    optim = job.optim
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=optim["lr"],
        betas=(optim["b1"], optim["b2"]),
        eps=optim["eps"],
        weight_decay=optim["weight_decay"],
    )
    return _train(job, variant, model, batches, optimizer, optim["clip_norm"])


def _begin(arguments: dict[str, Any]) -> tuple[Job, Any]:
    """Return the job and the device."""
    if torch is None:
        raise LeftOut(
            "PyTorch is not installed: pip install torch==2.13.0 into this environment, or "
            "--torch-python PATH"
        )
    job = Job(**arguments)
    torch.manual_seed(0)
    if not torch.cuda.is_available():
        return job, torch.device("cpu")
    torch.set_float32_matmul_precision(TORCH_PRECISION[job.precision])
    return job, torch.device("cuda")


def _train(
    job: Job,
    variant: str,
    loss_of: Callable[..., Any],
    batches: Callable[[], Iterator[Any]],
    optimizer: Any,
    clip_norm: float | None = None,
) -> dict[str, Any]:
    """Train; `loss_of(*batch)` is the mean loss of a batch."""
    forward = torch.compile(loss_of, dynamic=False) if variant == "compiled" else loss_of
    weights = optimizer.param_groups[0]["params"]

    def step(batch: Any) -> Any:
        optimizer.zero_grad()
        loss = forward(*batch)
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(weights, clip_norm)
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
