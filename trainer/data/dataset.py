"""What a dispatch consumes: K batches of examples, on the host or on the devices."""

from __future__ import annotations

from typing import Any, NamedTuple


class Superbatch(NamedTuple):
    """K batches, uint8; `batch` is the global one, or the part of it that this process loads."""

    images: Any  # (K, batch, pixels)
    labels: Any  # (K, batch)
    mask: Any  # (K, batch): 1 for an example, 0 where a batch is short
