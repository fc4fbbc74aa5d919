"""Additional inputs for a pruned model whose graph is not the planned one, so that numbers alone decide.

Batches, lengths and pasts around every number that its graph holds and the planned one does not, and
these numbers as ids and floats; many paddings; floats of all magnitudes; every row of the tables that ids index.
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

from onnxheadprune.attention.sites.find import view_of
from onnxheadprune.errors import HeadPruneError
from onnxheadprune.model.graph.facts import GATHERS, SLICES
from onnxheadprune.model.graph.view import GraphView, Value
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.storage.reading import in_memory
from onnxheadprune.model.storage.tensors import BITS, is_outside, tensors_of
from onnxheadprune.model.tensors import array_of
from onnxheadprune.runtime import Array
from onnxheadprune.runtime.feeds.fill import Padding
from onnxheadprune.runtime.feeds.generate import Feed, FeedMaker
from onnxheadprune.runtime.feeds.inputs import Input, Role, graph_inputs
from onnxheadprune.runtime.feeds.tables import tables_behind
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


class _Size(NamedTuple):
    """Sizes of one feed."""

    batch: int
    length: int
    past: int = PAST


@dataclass(frozen=True)
class _Numbers:
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


def _numbers_of(view: GraphView, planned: ModelProto, pruned: ModelProto) -> _Numbers:
    """The numbers of a pruned graph that are worth trying.

    Whoever hides something behind a batch, a length or a value has to store that number, or one from which it follows.
    So numbers that only the pruned graph holds are tried as each of these and in pairs, beside small sizes, which need
    no number of their own.
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
    return _Numbers(
        frozenset(turning),
        frozenset(following - turning),
        frozenset(tables | {length - 1 for length in tables}),
        frozenset(number for number in windows if min(LENGTHS) <= number <= LARGEST_WINDOW),
        tuple(sorted(own, key=abs)),
    )


def _sizes_for(numbers: _Numbers, *, has_past: bool) -> Iterator[_Size]:
    """The sizes to try; pairs of batches and lengths come last."""
    around = _around(numbers.turning)[:MOST_SIZES]
    around += [size for size in _around(numbers.following)[:MOST_SIZES] if size not in around]
    windows = _around(numbers.windows)[:MOST_WINDOWS]
    yield from (_Size(batch, length) for batch, length in SMALL_SIZES)
    tables = _around(numbers.tables)[:MOST_SIZES]
    yield from (_Size(1, length) for length in sorted({*LENGTHS, *around, *windows, *tables}))
    yield from (_Size(batch, SHORT) for batch in (*around, *windows))
    if has_past:
        for number in around:
            # One token after so many, and so many with the past.
            yield from (_Size(1, 1, number), _Size(1, 1, number - 1))
            yield _Size(1, max(number - PAST, 1))
    exactly = sorted(number for number in numbers.turning if 1 < number <= LONGEST)
    for sizes in (exactly, _around(exactly)[::-1]):
        pairs = itertools.product(sizes, repeat=2)
        yield from (_Size(*pair) for pair in itertools.islice(pairs, MOST_PAIRS))


def _around(numbers: Iterable[int]) -> list[int]:
    """The numbers and those after them that can be sizes."""
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
        if (
            tensor.data_type in BITS
            and 0 < int(np.prod(tensor.dims, dtype=np.int64)) <= SMALL
            and not is_outside(tensor)
        ):
            array = array_of(tensor)
            if array.dtype.kind in "iuf":
                found.update(float(item) for item in np.unique(array.astype(np.float64)) if np.isfinite(item))
    for node in nodes_of(model.graph):
        for attribute in node.attribute:
            listed = {attribute.i, attribute.f, *attribute.ints, *attribute.floats}
            found.update(float(item) for item in listed if math.isfinite(item))
    return found


MOST_ROWS = 4096
"""Rows of tables that are read one after the other where their numbers cannot be compared."""
MOST_FEEDS = 64
MOST_TOKENS, MOST_TOKENS_IN_ALL = 2**13, 2**17
"""Of one feed with several samples, and of all of these: the cost of a validation has a bound."""
ELEMENTS = 256
"""Of floats and pixels that count as one token."""
COUNTED_BATCH, COUNTED_LENGTH = 4, 32
MANY_PADDINGS, MANY_LENGTH = 16, 33
LARGEST_VALUE = 1000.0
"""Of floats that are made up."""


@dataclass(frozen=True)
class WideFeed:
    """One feed, and whether it holds floats of all magnitudes."""

    feed: Feed
    tails: bool = False


class Wide:
    """Wide feeds for one validation.

    Attributes:
        problems: what the inputs of the pruned model cannot take.
        notes: what was not compared, and after the feeds what stays unread.
    """

    def __init__(
        self, original: LoadedModel, planned: ModelProto, pruned: LoadedModel, view: GraphView, exact: float
    ) -> None:
        """Look at both graphs.

        Args:
            original: where the tensors of `view` lie.
            planned: the original with the plan carried out.
            pruned: the model to judge.
            view: the original's annotated view.
            exact: the relative difference up to which tables are the same.
        """
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.view = view
        self._original, self._pruned, self._exact = original, pruned, exact
        self._unread: dict[str, int] = {}
        try:
            theirs = view_of(pruned)
            self._compare_tables(theirs)
        except HeadPruneError as error:
            self.notes.append(f"the tables of {pruned.name} were not compared: {error}")
        self._numbers = _numbers_of(view, planned, pruned.proto)

    def feeds(self, maker: FeedMaker) -> Iterator[WideFeed]:
        """The feeds, the smallest first; those that the original cannot take are for the caller to skip."""
        seen: set[tuple[tuple[int, ...], ...]] = set()
        tokens = left_out = 0
        for size in _sizes_for(self._numbers, has_past=bool(maker.symbols.past)):
            feed = maker.wide(size.length, batch=size.batch, past=size.past)
            # Where sizes are fixed, all lengths are one.
            shapes = () if feed is None else tuple(value.shape for value in feed.values())
            if feed is None or shapes in seen:
                continue
            seen.add(shapes)
            needed = 0 if size.batch == 1 else _tokens(feed)
            if needed > MOST_TOKENS or tokens + needed > MOST_TOKENS_IN_ALL:
                left_out += 1
                continue
            tokens += needed
            yield WideFeed(feed)
        if left_out:
            self.notes.append(
                f"{left_out} larger batches were not tried, for numbers that only its graph holds"
            )
        yield from self._values(maker)
        yield from self._rows_read(maker)
        for feed in (
            maker.wide(9, batch=2, tails=True),
            maker.wide(MANY_LENGTH, batch=MANY_PADDINGS, padding=Padding.RIGHT),
        ):
            if feed is not None:
                yield WideFeed(feed, tails=True)

    def _values(self, maker: FeedMaker) -> Iterator[WideFeed]:
        """Feeds that hold numbers which only the pruned graph holds: as ids, and among floats."""
        rows = max((item.rows or 0 for item in maker.inputs if item.role is Role.IDS), default=0)
        floats = any(item.role is Role.FLOATS for item in maker.inputs)
        feeds = 0
        for number in self._numbers.values:
            as_id = number == int(number) and 0 <= number < rows
            if feeds == MOST_VALUES or not (as_id or (floats and 0 < abs(number) <= LARGEST_VALUE)):
                continue
            feed = maker.wide(8, batch=2, first_row=int(number) if as_id else None, value=number)
            if feed is not None:
                feeds += 1
                yield WideFeed(feed, tails=True)

    def _rows_read(self, maker: FeedMaker) -> Iterator[WideFeed]:
        """Feeds that read the rows of changed tables one after the other, as far as that goes."""
        read, feeds = 0, 0
        most = max(self._unread.values(), default=0)
        while read < min(most, MOST_ROWS) and feeds < MOST_FEEDS:
            feed = maker.wide(COUNTED_LENGTH, batch=COUNTED_BATCH, first_row=read)
            if feed is None:
                break
            yield WideFeed(feed)
            feeds += 1
            read += max(1, min(feed[name].size for name in self._unread))
        for name, rows in self._unread.items():
            if read < rows:
                self.notes.append(
                    f"{read} of the {rows} rows behind {name} were read; their table is not the original's"
                )

    def _compare_tables(self, theirs: GraphView) -> None:
        pruned = {item.name: item for item in graph_inputs(theirs)}
        for item in graph_inputs(self.view):
            if item.role is not Role.IDS or item.rows is None:
                continue
            rows = pruned[item.name].rows if item.name in pruned else None
            if rows is not None and rows < item.rows:
                self.problems.append(
                    f"{item.name} of {self._pruned.name} indexes a table of {rows} rows where the original has"
                    f" {item.rows}"
                )
            elif not self._same_tables(item, theirs):
                self._unread[item.name] = item.rows

    def _same_tables(self, item: Input, theirs: GraphView) -> bool:
        ours = tables_behind(self.view.main.values[item.name])
        others = tables_behind(theirs.main.values[item.name])
        known = [self._content(value, self._pruned) for value in others]
        for table in ours:
            wanted = self._content(table, self._original)
            if wanted is None or not any(_close(wanted, found, self._exact) for found in known):
                return False
        return True

    @staticmethod
    def _content(value: Value, model: LoadedModel) -> Array | None:
        if value.tensor is None:
            return None
        return numpy_helper.to_array(in_memory(value.tensor, model.sources))


def _close(wanted: Array, found: Array | None, tolerance: float) -> bool:
    if found is None or found.shape != wanted.shape:
        return False
    left, right = wanted.astype(np.float64), found.astype(np.float64)
    scale = float(np.abs(left).max(initial=0.0))
    return bool(np.abs(left - right).max(initial=0.0) <= tolerance * scale)


def _tokens(feed: Feed) -> int:
    return max(
        (value.size if value.dtype.kind == "i" and value.itemsize > 1 else value.size // ELEMENTS)
        for value in feed.values()
    )
