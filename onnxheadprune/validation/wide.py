"""What the usual feeds leave out: for a pruned model whose graph is not the planned one, so that numbers alone decide.

Lengths around every number that its graph holds and the planned one does not, and around the tables that sequences
index; a larger batch; floats of all magnitudes; every row of the tables that ids index.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, numpy_helper

from onnxheadprune.attention.sites.find import view_of
from onnxheadprune.errors import HeadPruneError
from onnxheadprune.model.graph.facts import GATHERS, SLICES
from onnxheadprune.model.graph.view import GraphView, Value
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.storage.reading import in_memory
from onnxheadprune.model.storage.spans import is_outside
from onnxheadprune.model.storage.tensors import tensors_of
from onnxheadprune.runtime import Array
from onnxheadprune.runtime.feeds import Feed, FeedMaker, Input, Role, graph_inputs
from onnxheadprune.runtime.feeds.tables import tables_behind
from onnxheadprune.validation.scopes import nodes_of

TAKES_A_PART = SLICES | GATHERS
LENGTHS = (16, 17, 32, 33, 64, 65, 128, 129)
"""Lengths that are always tried."""
LONGEST = 1025
"""Attention is quadratic, so there is an end to it."""
MOST_LENGTHS = 24
LARGEST_WINDOW, MOST_WINDOWS = 512, 8
"""Numbers that both graphs hold may be the size of a window; a few of them are tried."""
MOST_ROWS = 4096
"""Rows of tables that are read one after the other where their numbers cannot be compared."""
MOST_FEEDS = 64
SMALL = 16
"""Constants up to this many elements may hold the number at which a graph changes its ways."""
COUNTED_BATCH, COUNTED_LENGTH = 4, 32


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
            theirs = view_of(pruned.proto)
            self._compare_tables(theirs)
        except HeadPruneError as error:
            self.notes.append(f"the tables of {pruned.name} were not compared: {error}")
        self.lengths = _lengths(view, planned, pruned.proto)

    def feeds(self, maker: FeedMaker) -> Iterator[WideFeed]:
        """The feeds, the shortest first; those that the original cannot take are for the caller to skip."""
        seen: set[tuple[tuple[int, ...], ...]] = set()
        for feed in (*(maker.wide(length) for length in self.lengths), maker.wide(9, batch=5)):
            # Where sizes are fixed, all lengths are one.
            shapes = () if feed is None else tuple(value.shape for value in feed.values())
            if feed is not None and shapes not in seen:
                seen.add(shapes)
                yield WideFeed(feed)
        yield from self._rows_read(maker)
        tails = maker.wide(9, batch=2, tails=True)
        if tails is not None:
            yield WideFeed(tails, tails=True)

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
        known = [self._numbers(value, self._pruned) for value in others]
        for table in ours:
            wanted = self._numbers(table, self._original)
            if wanted is None or not any(_close(wanted, found, self._exact) for found in known):
                return False
        return True

    @staticmethod
    def _numbers(value: Value, model: LoadedModel) -> Array | None:
        if value.tensor is None:
            return None
        return numpy_helper.to_array(in_memory(value.tensor, model.sources))


def _close(wanted: Array, found: Array | None, tolerance: float) -> bool:
    if found is None or found.shape != wanted.shape:
        return False
    left, right = wanted.astype(np.float64), found.astype(np.float64)
    scale = float(np.abs(left).max(initial=0.0))
    return bool(np.abs(left - right).max(initial=0.0) <= tolerance * scale)


def _lengths(view: GraphView, planned: ModelProto, pruned: ModelProto) -> tuple[int, ...]:
    """Lengths to try: at and beyond numbers that only the pruned graph holds, tables, and what may be a window."""
    tables = _table_lengths(view)
    held = _numbers_in(pruned)
    turning = (held - _numbers_in(planned)) | tables | {length - 1 for length in tables}
    windows = {number for number in held - turning if min(LENGTHS) <= number <= LARGEST_WINDOW}
    return tuple(sorted({*LENGTHS, *_around(turning)[:MOST_LENGTHS], *_around(windows)[:MOST_WINDOWS]}))


def _around(numbers: Iterable[int]) -> list[int]:
    """The numbers and those behind them that can be lengths."""
    return sorted({number + step for number in numbers for step in (0, 1) if 1 < number + step <= LONGEST})


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


def _numbers_in(model: ModelProto) -> set[int]:
    """Whole numbers in small constants and in attributes."""
    found: set[int] = set()
    for tensor, _ in tensors_of(model):
        if 0 < int(np.prod(tensor.dims, dtype=np.int64)) <= SMALL and not is_outside(tensor):
            array = np.asarray(numpy_helper.to_array(tensor))
            if array.dtype.kind in "iuf":
                finite = array[np.isfinite(array.astype(np.float64))].astype(np.float64).reshape(-1)
                found |= {int(item) for item in finite if item == int(item)}
    for node in nodes_of(model.graph):
        for attribute in node.attribute:
            listed = [attribute.i, attribute.f, *attribute.ints, *attribute.floats]
            found |= {int(item) for item in listed if math.isfinite(item) and item == int(item)}
    return found
