"""The PyTorch rivals: the reference loop with DataLoader, tensors sliced by hand, torch.compile.

Needs only torch and NumPy. The loop is all they do: no shuffling, no metrics, no saving.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.workers import LeftOut
from benchmarks.workers.rival import TORCH_PRECISION, Job

try:
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset
except ModuleNotFoundError:
    torch = None


def measure(variant: str, **arguments: Any) -> dict[str, Any]:
    """Train, and return the seconds of a step; the arguments are those of Job.

    `variant` is "loader", "sliced" or "compiled" (sliced, with torch.compile).
    """
    if torch is None:
        raise LeftOut(
            "PyTorch is not installed: pip install torch==2.13.0 into this environment, or "
            "--torch-python PATH"
        )
    job, device = Job(**arguments), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    if device.type == "cuda":
        torch.set_float32_matmul_precision(TORCH_PRECISION[job.precision])
    examples = {field: torch.from_numpy(array) for field, array in job.examples().items()}

    def batches() -> Iterator[dict[str, Any]]:
        if variant == "loader":
            tensors = [t.float() if field == "image" else t for field, t in examples.items()]
            loader = DataLoader(TensorDataset(*tensors), batch_size=job.batch_size)
            while True:
                for batch in loader:
                    yield {field: t.to(device) for field, t in zip(examples, batch, strict=True)}
        for part in job.slices(len(next(iter(examples.values()))), whole=True):
            yield {field: array[part].to(device) for field, array in examples.items()}

    model = job.rivals()["pytorch"](job.options, examples).to(device)
    loss_of = torch.compile(model, dynamic=False) if variant == "compiled" else model
    optim, weights = job.optim, [*model.parameters()]
    if "momentum" in optim:
        optimizer = torch.optim.SGD(
            weights, lr=optim["lr"], momentum=optim["momentum"], nesterov=optim["nesterov"]
        )
    else:
        optimizer = torch.optim.AdamW(
            weights,
            lr=optim["lr"],
            betas=(optim["b1"], optim["b2"]),
            eps=optim["eps"],
            weight_decay=optim["weight_decay"],
        )
    clip_norm = optim.get("clip_norm")

    def step(batch: dict[str, Any]) -> Any:
        optimizer.zero_grad()
        loss = loss_of(batch)
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
