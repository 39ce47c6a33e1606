"""Values that the processes leave for each other in the key-value store of jax's coordination.

Unlike a collective, this takes no device, and any thread may do it at any time.
"""

import json
from typing import Any

import jax
from jax._src import distributed  # the service has no public API; orbax uses this one too

Json = Any


class KeyValues:
    """Named values in JSON, each set once; a single process has nobody to leave them for."""

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
        """Delete all values; no process may want them any more."""
        if self._client is not None:
            self._client.key_value_delete(self._prefix)
