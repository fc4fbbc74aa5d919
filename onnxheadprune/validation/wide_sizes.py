"""Sizes and numbers at which a graph that is not the planned one may change its ways.

Whoever hides something behind a batch, a length or a value has to store that number, or one from which it follows. So
numbers that only the pruned graph holds are tried as each of these and in pairs, beside small sizes, which need no
number of their own.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, numpy_helper

from onnxheadprune.model.graph.facts import GATHERS, SLICES
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.storage.spans import is_outside
from onnxheadprune.model.storage.tensors import tensors_of
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from onnxheadprune.validation.scopes import nodes_of

TAKES_A_PART = SLICES | GATHERS
SMALL_SIZES = tuple(zip((*range(1, 10), *range(1, 7)), range(1, 16), strict=True))
"""Batches and lengths that are always tried, and need no number of their own; (9, 5) is as long as wide."""
LENGTHS = (16, 17, 32, 33, 64, 65, 128, 129)
"""Lengths that are always tried."""
LONGEST = 1025
"""Attention is quadratic, so there is an end to it."""
MOST_SIZES = 24
LARGEST_WINDOW, MOST_WINDOWS = 512, 8
"""Numbers that both graphs hold may be the size of a window; a few of them are tried."""
MOST_PAIRS = 36
MOST_VALUES = 16
FEW = 4
"""Up to so many numbers of its own, what follows from two of them is tried as well."""
SMALL = 16
"""Constants up to this many elements may hold the number at which a graph changes its ways."""
SHORT, PAST = 5, 3
"""The length at which batches are tried, and the past of all other feeds."""


class Size(NamedTuple):
    """Sizes of one feed."""

    batch: int
    length: int
    past: int = PAST


@dataclass(frozen=True)
class Numbers:
    """Numbers at which the pruned graph may change its ways.

    Attributes:
        turning: whole numbers that it holds more often than the planned one.
        following: sizes that follow from these.
        tables: sizes of tables that positions index.
        windows: numbers that both graphs hold, and that may be the size of a window.
        values: all numbers that it holds more often than the planned one, the smallest first.
    """

    turning: frozenset[int]
    following: frozenset[int]
    tables: frozenset[int]
    windows: frozenset[int]
    values: tuple[float, ...]


def numbers_of(view: GraphView, planned: ModelProto, pruned: ModelProto) -> Numbers:
    """The numbers of a pruned graph that are worth trying.

    Args:
        view: of the original.
        planned: the original with the plan carried out.
        pruned: the model to judge.
    """
    held = _held(pruned)
    own = held - _held(planned)
    turning = {int(number) for number in own if number == int(number) and number > 0}
    following = set(_following(turning)) if len(turning) <= FEW else set()
    for item in graph_inputs(view):
        # An input's number of elements is its open sizes times this.
        width = math.prod(dim for dim in item.dims if isinstance(dim, int))
        following |= {number // width for number in turning if number > width > 1}
    tables = _table_lengths(view)
    windows = {int(number) for number in held if number == int(number)} - turning - following - tables
    return Numbers(
        frozenset(turning),
        frozenset(following - turning),
        frozenset(tables | {length - 1 for length in tables}),
        frozenset(number for number in windows if min(LENGTHS) <= number <= LARGEST_WINDOW),
        tuple(sorted(own, key=abs)),
    )


def sizes_for(numbers: Numbers, *, has_past: bool) -> Iterator[Size]:
    """The sizes to try; pairs of batches and lengths come last.

    Args:
        numbers: what the graphs hold.
        has_past: whether the model reads a cache.
    """
    around = _around(numbers.turning)[:MOST_SIZES]
    around += [size for size in _around(numbers.following)[:MOST_SIZES] if size not in around]
    windows = _around(numbers.windows)[:MOST_WINDOWS]
    yield from (Size(batch, length) for batch, length in SMALL_SIZES)
    tables = _around(numbers.tables)[:MOST_SIZES]
    yield from (Size(1, length) for length in sorted({*LENGTHS, *around, *windows, *tables}))
    yield from (Size(batch, SHORT) for batch in (*around, *windows))
    if has_past:
        for number in around:
            # One token behind so many, and so many with the past.
            yield from (Size(1, 1, number), Size(1, 1, number - 1))
            yield Size(1, max(number - PAST, 1))
    exactly = sorted(number for number in numbers.turning if 1 < number <= LONGEST)
    for sizes in (exactly, _around(exactly)[::-1]):
        pairs = itertools.product(sizes, repeat=2)
        yield from (Size(*pair) for pair in itertools.islice(pairs, MOST_PAIRS))


def _around(numbers: Iterable[int]) -> list[int]:
    """The numbers and those behind them that can be sizes."""
    return sorted({number + step for number in numbers for step in (0, 1) if 1 < number + step <= LONGEST})


def _following(numbers: Iterable[int]) -> Iterator[int]:
    for one, other in itertools.product(numbers, repeat=2):
        yield from (one + other, abs(one - other), one // other)


def _table_lengths(view: GraphView) -> set[int]:
    """Sizes of stored tables of which a graph takes a part that depends on its inputs."""
    found: set[int] = set()
    for node in view.nodes:
        table = node.input(0)
        if node not in TAKES_A_PART or table is None or not table.is_constant or table.shape is None:
            continue
        if any(value is not None and not value.is_constant for value in node.inputs[1:]):
            found |= {dim for dim in table.shape if isinstance(dim, int)}
    return found


def _held(model: ModelProto) -> Counter[float]:
    """Return how often small constants and attributes hold each number."""
    found: Counter[float] = Counter()
    for tensor, _ in tensors_of(model):
        if 0 < int(np.prod(tensor.dims, dtype=np.int64)) <= SMALL and not is_outside(tensor):
            array = np.asarray(numpy_helper.to_array(tensor))
            if array.dtype.kind in "iuf":
                found.update(float(item) for item in np.unique(array.astype(np.float64)) if np.isfinite(item))
    for node in nodes_of(model.graph):
        for attribute in node.attribute:
            listed = {attribute.i, attribute.f, *attribute.ints, *attribute.floats}
            found.update(float(item) for item in listed if math.isfinite(item))
    return found
