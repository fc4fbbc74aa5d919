"""Additional inputs for a pruned model whose graph is not the planned one, so that numbers alone decide.

Batches, lengths and pasts around every number that its graph holds and the planned one does not (`added_numbers`), and
these numbers as ids and floats; many paddings, of whole samples, too; ids at both ends of a table and below zero;
floats of all magnitudes; every row of the tables that ids index.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from onnxheadprune.errors import HeadPruneError
from onnxheadprune.model.graph.operator import operator_of
from onnxheadprune.model.graph.view import GraphView, Value
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.spelling import first_few, many
from onnxheadprune.model.storage.reading import in_memory
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import Array
from onnxheadprune.runtime.feeds.fill import Padding
from onnxheadprune.runtime.feeds.generate import Feed, FeedMaker
from onnxheadprune.runtime.feeds.inputs import Input, Role, graph_inputs
from onnxheadprune.runtime.feeds.tables import tables_behind
from onnxheadprune.validation.added_numbers import LONGEST, Numbers, numbers_of

SMALL_SIZES = tuple(zip((*range(1, 10), *range(1, 7)), range(1, 16), strict=True))
"""Batches and lengths that are always tried, and need no number of their own; (9, 5) is as long as wide."""
ALWAYS = 9
"""Sizes up to this are always tried, as batches and as lengths."""
LENGTHS = (16, 17, 32, 33, 64, 65, 128, 129)
"""Lengths that are always tried."""
MOST_SIZES = 24
LARGEST_WINDOW, MOST_WINDOWS = 512, 8
"""Numbers that both graphs hold may be the size of a window; a few of them are tried."""
MOST_PAIRS = 36
MOST_VALUES = 40
EDGE = 5
"""Ids that are read at each end of a table, and below zero."""
SHORT, PAST = 5, 3
"""The length at which batches are tried, and the past of all other feeds."""


class _Size(NamedTuple):
    """Sizes of one feed."""

    batch: int
    length: int
    past: int = PAST


def _sizes_for(numbers: Numbers, *, has_past: bool) -> Iterator[_Size]:
    """The sizes to try; pairs of batches and lengths come last."""
    around = _around(numbers.turning, MOST_SIZES)
    around += [size for size in _around(numbers.following, MOST_SIZES) if size not in around]
    windows = _around((n for n in numbers.shared if min(LENGTHS) <= n <= LARGEST_WINDOW), MOST_WINDOWS)
    yield from (_Size(batch, length) for batch, length in SMALL_SIZES)
    tables = _around(numbers.tables, MOST_SIZES)
    small = range(1, ALWAYS + 1)
    yield from (_Size(1, length) for length in sorted({*small, *LENGTHS, *around, *windows, *tables}))
    yield from (_Size(batch, SHORT) for batch in (*around, *windows))
    # A batch of that many samples may need to be as short as can be.
    yield from (_Size(batch, 1) for batch in around if batch * SHORT > MOST_TOKENS)
    if has_past:
        for number in (*small, *around):
            # One token after so many, and so many with the past.
            yield from (_Size(1, 1, number), _Size(1, 1, number - 1))
            yield _Size(1, max(number - PAST, 1))
    exactly = [number for number in numbers.turning if 1 < number <= LONGEST]
    for sizes in (exactly, _around(exactly, MOST_SIZES)[::-1]):
        pairs = itertools.product(sizes, repeat=2)
        yield from (_Size(*pair) for pair in itertools.islice(pairs, MOST_PAIRS))


def _around(numbers: Iterable[int], most: int) -> list[int]:
    """The first numbers and those next to them that can be sizes."""
    found = dict.fromkeys(
        number + step for number in numbers for step in (0, 1, -1) if ALWAYS < number + step <= LONGEST
    )
    return list(found)[:most]


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
        self,
        original: LoadedModel,
        planned: ModelProto,
        pruned: LoadedModel,
        view: GraphView,
        exact: float,
        differing: Sequence[NodeProto] = (),
    ) -> None:
        """Look at both graphs."""
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.view = view
        self._original, self._pruned, self._exact = original, pruned, exact
        self._unread: dict[str, int] = {}
        self._fused = any(operator_of(node).layout is not None for node in differing)
        self._other_tables = any(node.domain and node.roles.rows for node in differing)
        theirs: GraphView | None = None
        try:
            theirs = view_of(pruned)
            self._compare_tables(theirs)
        except HeadPruneError as error:
            self.notes.append(f"the tables of {pruned.name} were not compared: {error}")
        self._numbers = numbers_of(view, theirs, (planned, pruned.proto), differing)
        if self._fused:
            self.notes.append(
                "samples without a token to attend to were not compared: its fused attention skips them"
            )

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
        tried = {*_around(self._numbers.turning, MOST_SIZES), *range(ALWAYS + 1)}
        untried = [number for number in self._numbers.turning if number not in tried]
        if untried:
            self.notes.append(
                f"{many(len(untried), 'number')} that only its graph holds were not tried as sizes, since there are"
                f" more than {MOST_SIZES} or they are above {LONGEST:,}: {first_few(untried, 3)}"
            )
        if left_out:
            self.notes.append(
                f"{left_out} larger batches were not tried, for numbers that only its graph holds"
            )
        yield from self._values(maker)
        yield from self._rows_read(maker)
        yield from self._ends(maker)
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
            as_id = number == int(number) and 0 < number < rows
            if feeds == MOST_VALUES or not (as_id or (floats and 0 < abs(number) <= LARGEST_VALUE)):
                continue
            feed = maker.wide(8, batch=2, first_row=int(number) if as_id else None, value=number)
            if feed is not None:
                feeds += 1
                yield WideFeed(feed, tails=True)

    def _ends(self, maker: FeedMaker) -> Iterator[WideFeed]:
        """Feeds with the first and last ids, with negative ones, and with samples without a token."""
        rows = max((item.rows or 0 for item in maker.inputs if item.role is Role.IDS), default=0)
        first = [0, rows - EDGE, -EDGE, -rows] if rows else []
        if self._other_tables:
            # Fused operators refuse negative ids, which a Gather counts from the end of its table.
            first = [row for row in first if row >= 0]
        paddings = [] if self._fused else [Padding.WHOLE]
        for feed in (
            *(maker.wide(EDGE, batch=batch, first_row=row) for row in first for batch in (1, 3)),
            *(maker.wide(9, batch=batch, padding=padding) for padding in paddings for batch in (1, 3)),
        ):
            if feed is not None:
                yield WideFeed(feed)

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
