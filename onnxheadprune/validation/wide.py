"""Additional inputs for a pruned model whose graph is not the planned one, so that numbers alone decide.

Batches, lengths and pasts around every number that its graph holds and the planned one does not (`wide_sizes`), and
these numbers as ids and floats; many paddings; floats of all magnitudes; every row of the tables that ids index.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, numpy_helper

from onnxheadprune.attention.sites.find import view_of
from onnxheadprune.errors import HeadPruneError
from onnxheadprune.model.graph.view import GraphView, Value
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.storage.reading import in_memory
from onnxheadprune.runtime import Array
from onnxheadprune.runtime.feeds.fill import Padding
from onnxheadprune.runtime.feeds.generate import Feed, FeedMaker
from onnxheadprune.runtime.feeds.inputs import Input, Role, graph_inputs
from onnxheadprune.runtime.feeds.tables import tables_behind
from onnxheadprune.validation.wide_sizes import MOST_VALUES, numbers_of, sizes_for

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
        """Looks at both graphs.

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
        self._numbers = numbers_of(view, planned, pruned.proto)

    def feeds(self, maker: FeedMaker) -> Iterator[WideFeed]:
        """The feeds, the smallest first; those that the original cannot take are for the caller to skip."""
        seen: set[tuple[tuple[int, ...], ...]] = set()
        tokens = left_out = 0
        for size in sizes_for(self._numbers, has_past=bool(maker.symbols.past)):
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
