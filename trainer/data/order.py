"""In which order an epoch shows the examples: a pure function of the seed and the epoch."""

from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Order = npt.NDArray[np.int64]

MOST_PARTS = 10_000


def permutation(seed: int, epoch: int, size: int, stream: int = 0) -> Order:
    """Return the order of the examples in an epoch; another `stream` has other orders.

    The rank of raw Philox output, without its lowest bits: numpy promises the bits of its bit
    generators for ever, but not those of `Generator.permutation`. The index takes the place of
    those bits, so that equal ones keep their order and plain numbers are sorted, twice as fast.
    """
    bits = np.uint64(size.bit_length())
    keys = np.random.Philox(key=[seed, epoch | stream << 48]).random_raw(size)
    keys >>= bits  # in place: there may be many examples
    keys <<= bits
    for first in range(0, size, 2**20):
        part = keys[first : first + 2**20]
        part |= np.arange(first, first + len(part), dtype=np.uint64)
    keys.sort()
    keys &= (np.uint64(1) << bits) - np.uint64(1)
    return keys.view(np.int64)


class Mixture(NamedTuple):
    """Several sets of examples, one after the other in the arrays, of which a batch has shares.

    An epoch is as many examples as there are in all sets. Those of a set come in a new order each
    time that all of them were shown, which is more or less often than once in an epoch.
    """

    sizes: tuple[int, ...]  # examples of each set
    weights: tuple[int, ...]  # whole numbers without a common divisor

    def order(self, seed: int | None, epoch: int) -> Order:
        """Return the examples of an epoch, by their numbers in the arrays.

        After any number of examples, over all epochs, each set has had its share of them within
        one example. Without a seed, those of a set come in their own order.
        """
        of_turn, before = _turns(self.weights)
        examples = sum(self.sizes)
        turns, turn = np.divmod(
            np.arange(epoch * examples, (epoch + 1) * examples), sum(self.weights)
        )
        order, chosen, first = np.empty(examples, np.int64), of_turn[turn], 0
        for number, (size, weight) in enumerate(zip(self.sizes, self.weights, strict=True)):
            (mine,) = np.nonzero(chosen == number)
            # Of all that the set has shown: the pass over it, and the place in the pass.
            passes, inside = np.divmod(turns[mine] * weight + before[turn[mine]], size)
            for each in np.unique(passes):
                if seed is not None:
                    lo, hi = np.searchsorted(passes, (each, each + 1))
                    inside[lo:hi] = permutation(seed, int(each), size, number)[inside[lo:hi]]
            order[mine] = first + inside
            first += size
        return order


@lru_cache(8)
def _turns(weights: tuple[int, ...]) -> tuple[Order, Order]:
    """Return whose turn it is, (sum of weights,), and how many turns that set has had before.

    The quota method of Balinski and Young: of the sets whose share is larger than what they have
    had, the one whose next turn is due first. It keeps all of them within one of their shares.
    """
    total, had = sum(weights), [0] * len(weights)
    of_turn, before = np.empty(total, np.int64), np.empty(total, np.int64)
    for turn in range(total):
        may = [i for i, weight in enumerate(weights) if had[i] * total < weight * (turn + 1)]
        chosen = min(may, key=lambda i: Fraction(had[i] + 1, weights[i]))
        of_turn[turn], before[turn] = chosen, had[chosen]
        had[chosen] += 1
    return of_turn, before


def whole(weights: list[float]) -> tuple[int, ...]:
    """Return weights above 0 as the smallest whole numbers of the same ratios: of 0.7, 0.3: 7, 3.

    Raises:
        ValueError: these add up to more than MOST_PARTS.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    numbers = [int(one * lcm(*(each.denominator for each in exact))) for one in exact]
    smallest = tuple(number // gcd(*numbers) for number in numbers)
    if sum(smallest) > MOST_PARTS:
        text = " : ".join(f"{number:,}" for number in smallest)
        raise ValueError(f"as whole numbers they are {text}")
    return smallest
