"""Some rows of an array, which are read when they are asked for.

So a split of a data set takes no memory beside the data, which may be larger than memory.
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.integer[Any]]


class Array(Protocol):
    """What the trainer needs of an array (N, ...): a numpy array has it, and so has Rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102 - as numpy's
    @property
    def ndim(self) -> int: ...  # noqa: D102
    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102
    @property
    def nbytes(self) -> int: ...  # noqa: D102
    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> npt.NDArray[Any]: ...


class Rows:
    """Some rows of an array (M, ...), in an order, as an array (N, ...).

    Numpy can convert it; `rows[index]`, with a slice or an array of indices, is a numpy array.
    """

    def __init__(self, array: Array, rows: Index) -> None:
        """Describe them; `rows` (N,) are their numbers in the array."""
        self.array, self.rows = array, rows

    @property
    def shape(self) -> tuple[int, ...]:
        """As numpy's."""
        return (len(self.rows), *self.array.shape[1:])

    @property
    def ndim(self) -> int:
        """As numpy's."""
        return self.array.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """As numpy's."""
        return self.array.dtype

    @property
    def nbytes(self) -> int:
        """The bytes of these rows."""
        return len(self.rows) * (self.array.nbytes // max(1, len(self.array)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any, /) -> npt.NDArray[Any]:
        return gather(self, np.arange(len(self))[index])

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        return self[:].astype(dtype or self.dtype, copy=False)


def gather(array: Array, indices: Index) -> npt.NDArray[Any]:
    """Return the rows of these numbers: indices of any shape, in range -> (*indices.shape, ...)."""
    if isinstance(array, Rows):
        return gather(array.array, array.rows[indices])
    # mode="clip" skips a second pass over the indices, which are in range.
    taken = np.take(np.asarray(array), indices.ravel(), axis=0, mode="clip")
    return taken.reshape(*indices.shape, *array.shape[1:])
