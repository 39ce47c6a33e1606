"""What a program sends between devices, read out of its HLO text, and what it computes."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from trainer.job.errors import UnavailableError
from trainer.optimizers.elementwise import programs_in

KINDS = (
    *("all-reduce", "all-gather", "all-to-all", "reduce-scatter"),
    *("collective-permute", "collective-broadcast"),
)
# `%name (parameters) -> result {`, or `ENTRY %name ...`
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$")
# `%name = RESULT all-reduce(...)`; RESULT is a shape or, of several arrays, a tuple of shapes.
_RESULT, _NAME = r"(?P<result>\(.*?\)|\S+)", f"(?P<kind>{'|'.join(KINDS)})"
_COLLECTIVE = re.compile(rf"^\s*(?:ROOT )?%?\S+ = {_RESULT} {_NAME}(?P<start>-start)?\(")
_SHAPE = re.compile(r"\b(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")  # the bits of a number, the sizes
_CALLED = re.compile(r"\b(body|condition|calls|to_apply|\w+_computations?)=(\{[^}]*\}|%?[\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# Which devices take part: a list of groups, numbers that fall into groups, or axes of a mesh.
_GROUPS = re.compile(r"replica_groups=(?!\{\})")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[((?:'\w+'=\d+,?)+)\] \{((?:'\w+',?)+)\}")


class Collective(NamedTuple):
    """One instruction of the program, for all devices."""

    kind: str  # of KINDS; one of a tuple of arrays is one
    bytes: int  # of the whole arrays: summed, or in all their parts
    group: tuple[int, ...]  # the devices that take part with the first one, by number
    times: int = 1  # in a step


class Traffic(NamedTuple):
    """The collectives of one step."""

    items: tuple[Collective, ...]

    @property
    def collectives(self) -> dict[str, int]:
        """How many there are of each kind."""
        kinds: Counter[str] = Counter()
        for item in self.items:
            kinds[item.kind] += item.times
        return dict(kinds)

    @property
    def by_kind(self) -> list[tuple[str, int, int, int]]:
        """Kind, devices that take part, how many there are, and the bytes of all of them."""
        totals = dict[tuple[str, int], tuple[int, int]]()
        for item in self.items:
            key = (item.kind, len(item.group))
            count, size = totals.get(key, (0, 0))
            totals[key] = (count + item.times, size + item.bytes * item.times)
        return [(*key, *value) for key, value in totals.items()]

    @property
    def bytes(self) -> int:
        """The bytes of all arrays."""
        return sum(item.bytes * item.times for item in self.items)


def traffic(text: str) -> Traffic:
    """Count the collectives of one step in the HLO text of a compiled dispatch.

    The outermost loop is that over the steps of the dispatch, so what is in it counts once. What is
    in another loop counts once for each iteration, if the compiler knows their number; of a branch,
    both sides count.
    """
    computations = dict[str, list[str]]()
    entry, body = "", list[str]()
    partitions = re.search(r"\bnum_partitions=(\d+)", text.partition("\n")[0])
    devices = int(partitions[1]) if partitions else 1
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            body = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        else:
            body.append(line)

    def walk(name: str, times: int, in_loop: bool) -> Iterator[Collective]:
        for line in computations.get(name, ()):
            if (match := _COLLECTIVE.match(line)) is not None:
                yield _collective(match, line, devices, times)
                continue  # what it applies adds two numbers
            for role, names in _CALLED.findall(line):
                trips = _TRIPS.search(line) if role == "body" and in_loop else None
                inner = times * int(trips[1]) if trips else times
                for called in re.findall(r"[\w.-]+", names):
                    yield from walk(called, inner, in_loop or role == "body")

    return Traffic(tuple(walk(entry, 1, False)))


def _collective(match: re.Match[str], line: str, devices: int, times: int) -> Collective:
    kind, group = match["kind"], _group(line, devices)
    shapes = _SHAPE.findall(match["result"])
    if match["start"] and kind != "all-reduce":  # its result has the operands first
        shapes = shapes[len(shapes) // 2 :]
    whole = len(group) if kind == "reduce-scatter" else 1  # the result is a part
    size = 0
    for bits, dims in shapes:
        size += math.prod(int(n) for n in dims.split(",") if n) * int(bits or 8) // 8
    return Collective(kind, size * whole, group, times)


def _group(line: str, devices: int) -> tuple[int, ...]:
    """Return the devices that take part with device 0; by default all.

    Raises:
        UnavailableError: XLA says so in another way than those known here.
    """
    if listed := _LISTED.search(line):
        return tuple(int(n) for n in listed[1].split(","))
    if iota := _IOTA.search(line):
        dims = [int(n) for n in iota[3].split(",")]
        numbers = np.arange(np.prod(dims)).reshape(dims)
        if iota[4]:
            numbers = numbers.transpose([int(n) for n in iota[4].split(",")])
        return tuple(int(n) for n in numbers.reshape(int(iota[1]), int(iota[2]))[0])
    if mesh := _MESH.search(line):
        axes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        along = re.findall(r"\w+", mesh[2])
        numbers = np.arange(devices).reshape([int(size) for size in axes.values()])
        return tuple(numbers[*(slice(None) if axis in along else 0 for axis in axes)].ravel())
    if groups := _GROUPS.search(line):
        message = f"XLA writes what this version cannot read: {line[groups.start() :][:60]}"
        raise UnavailableError(message, "use the version of jax that requirements/ names")
    return tuple(range(devices))


def operations(jaxpr: Any) -> int:
    """Return the floating-point operations of the products of one step, on each device.

    The outermost loop is that over the steps of a dispatch, so its body counts once. The body of
    another loop counts once for each of its iterations, if their number is known; XLA's own count
    (cost_analysis) has it once. Of a branch, all sides count.
    """
    return _operations(jaxpr, 1, in_loop=False)


def _operations(jaxpr: Any, times: int, in_loop: bool) -> int:
    count = 0
    for equation in jaxpr.eqns:
        name, iterations, terms = equation.primitive.name, 1, 0
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            terms = math.prod(shape[dim] for dim in contracted)
        elif name == "conv_general_dilated":
            kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
            terms = math.prod(kernel) // max(1, kernel[numbers.rhs_spec[0]])
        elif name == "scan" and in_loop:
            iterations = equation.params["length"]
        if terms:  # a multiplication and an addition for each term of each number of the result
            count += times * 2 * terms * math.prod(equation.outvars[0].aval.shape)
        inner = in_loop or name in ("scan", "while")
        for part in programs_in(equation.params.values()):
            count += _operations(part, times * iterations, inner)
    return count
