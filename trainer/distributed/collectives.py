"""What all processes of a run do together: share results, fail together, send arrays.

KeyValues has what one process leaves for the others, from any thread at any time.
"""

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # the service has no public API; orbax uses this one too
from jax.experimental import multihost_utils

from trainer.job.errors import TrainerError

Json = Any
T = TypeVar("T")
Tree = TypeVar("Tree")  # a pytree of arrays

# In messages of gloo, NCCL and jax's coordination service when another process does not answer.
_LOSS = re.compile(
    "gloo|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|connection (closed|reset|refused)|socket closed|"
    "unhandled system error|remote process exited",
    re.IGNORECASE,
)


def is_peer_loss(error: Exception) -> bool:
    """Return whether an error comes from the connections between the processes."""
    return _LOSS.search(str(error)) is not None


def share(make: Callable[[], Json]) -> list[Json]:
    """Call `make` on every process; return the results of all, in the order of the processes.

    All processes have to call this together. Without it, a process that fails alone would leave
    the others waiting for it in the next collective.

    Raises:
        TrainerError: on every process, if `make` raised it on any: the first in their order.
    """
    error: TrainerError | None = None
    try:
        own: Json = {"value": make()}
    except TrainerError as raised:
        error, own = raised, raised.packed()
    results = _gather(own)
    for index, result in enumerate(results):
        if "kind" in result:
            if error is None or index != jax.process_index():
                error = TrainerError.unpacked(result, sender=f"process {index}: ")
            error.everywhere = True
            raise error
    return [result["value"] for result in results]


def _gather(value: Json) -> list[Json]:
    """Return the values of all processes."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    # Two collectives, because all have to send the same number of bytes in the second.
    lengths = multihost_utils.process_allgather(np.array([len(data)], np.int32)).ravel()
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [
        json.loads(bytes(row[: int(length)])) for row, length in zip(rows, lengths, strict=True)
    ]


def together(make: Callable[[], T]) -> T:
    """Run `make` on every process; if any process fails, all raise that error.

    Returns the local result. Like `share`, for results of any type.
    """
    own: list[T] = []
    share(lambda: own.append(make()))
    return own[0]


def broadcast(tree: Tree) -> Tree:
    """Return the numpy arrays of process 0, bit for bit; all processes give the same shapes."""
    if jax.process_count() == 1:
        return tree
    # As bytes: jax adds the arrays of all processes up, and -0.0 + 0.0 is 0.0.
    raw = jax.tree.map(lambda x: np.frombuffer(np.asarray(x).tobytes(), np.uint8), tree)
    sent = multihost_utils.broadcast_one_to_all(raw)
    return jax.tree.map(lambda x, got: np.asarray(got).view(x.dtype).reshape(x.shape), tree, sent)


class KeyValues:
    """Named values in JSON, each set once, in the key-value store of jax's coordination service.

    A run of one process has no such store: put() and clear() do nothing.
    """

    def __init__(self, prefix: str) -> None:
        """Use the names that begin with `prefix`."""
        self._prefix = prefix
        self._client: Any = distributed.global_state.client

    def put(self, name: str, value: Json) -> None:
        """Set a value, for all processes."""
        if self._client is not None:
            self._client.key_value_set(self._prefix + name, json.dumps(value))

    def get(self, name: str, seconds: float) -> Json:
        """Wait for a value and return it.

        Raises:
            TimeoutError: nobody has set it in that time.
        """
        try:
            text = self._client.blocking_key_value_get(self._prefix + name, int(seconds * 1000))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" in str(error):
                raise TimeoutError(f"no answer within {seconds:g} s") from None
            raise
        return json.loads(text)

    def clear(self) -> None:
        """Delete all values, once no process needs them."""
        if self._client is not None:
            self._client.key_value_delete(self._prefix)
