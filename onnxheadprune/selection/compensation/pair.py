"""The original and the pruned model side by side: what each of them has where a map is refitted, as rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from onnxheadprune.attention.matrices import Array
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.selection.activations.boundaries import Boundaries
from onnxheadprune.selection.activations.contexts import finite
from onnxheadprune.selection.activations.data import Calibration, token_rows
from onnxheadprune.selection.activations.linear import Linear
from onnxheadprune.selection.activations.moments import Moments, Rows, gather
from onnxheadprune.selection.activations.parts import Parts
from onnxheadprune.selection.activations.running import Running
from onnxheadprune.selection.activations.walk import Walk
from onnxheadprune.selection.compensation.runs import Run
from onnxheadprune.selection.compensation.targets import RowsOf, Target, links_of
from onnxheadprune.selection.compensation.values import Context, Values, values_of

ROWS_OF_LINKS = 1024
"""Positions that are looked at to tell what lies between two additions."""


class _OtherPositionsError(Exception):
    """The pruned model sees other positions than the original."""


class Pair:
    """Both models on their way through the maps.

    Attributes:
        walk: takes them from one map to the next.
    """

    def __init__(
        self,
        parts: Parts,
        boundaries: Boundaries,
        nodes: Iterable[Node],
        data: tuple[Calibration, Calibration],
        changed: Mapping[str, Array],
    ) -> None:
        """Both stand at the inputs.

        Args:
            parts: makes sessions of the original's parts.
            boundaries: where it is cut.
            nodes: of the maps.
            data: to learn from, and held out.
            changed: contents of stored tensors that differ in the pruned model; it grows on the way.
        """
        self._learn, held = data
        feeds = (*self._learn.feeds, *held.feeds)
        self.walk = Walk(parts, boundaries, feeds, changed, self._learn.source)
        self._running = Running(parts, nodes, feeds, self._learn.source)

    @property
    def _data(self) -> tuple[range, range]:
        """Positions of the feeds to learn from, and of those that are held out."""
        first = len(self._learn.feeds)
        return range(first), range(first, len(self.walk.feeds))

    def runs(self, linear: Linear) -> bool:
        """Whether a map runs on a feed of both parts of the data."""
        return all(self._running.is_reached(linear.node, part) for part in self._data)

    def target(self, linear: Linear, run: Run | None) -> Target:
        """What a map should give: what serves the run behind it, where that can be told.

        Args:
            linear: the map.
            run: what it is to stand in for, None for nothing.
        """
        if run is None:
            return Target(linear)
        read = self.walk.changed(run.passed)
        feeds: list[RowsOf] = []
        count = 0
        for at in self._data[0]:
            if not self._running.reaches(at, linear.node):
                continue
            feeds.append(self._reader(read(at), linear, at))
            count += len(feeds[-1](linear.out))
            if count >= ROWS_OF_LINKS:
                break
        links = links_of(run, feeds)
        return Target(linear) if links is None else Target(linear, run, links)

    def values(
        self, target: Target, makers: Sequence[Linear], heads: tuple[Sequence[int], ...]
    ) -> Values | None:
        """The map that makes the values of some heads, where it can change by itself.

        Args:
            target: of the projection that reads their contexts.
            makers: maps that may make them.
            heads: channels per head that stays.
        """
        linear = target.linear
        return values_of(
            self.walk,
            makers,
            Context(linear.source, linear.axes, heads),
            self._learn,
            target.here,
            lambda feed: self._running.reaches(feed, linear.node),
        )

    def moments(
        self, target: Target, rows: Sequence[int], values: Values | None
    ) -> tuple[Moments, Moments] | None:
        """Inputs of a map as the pruned model has them, and what it should make of them.

        Args:
            target: of the map.
            rows: inputs that count.
            values: whose features follow the inputs, None for none.

        Returns:
            Moments of the data to learn from, and of what is held out; None if the pruned model sees other positions
            than the original.
        """
        linear, columns = target.linear, list(rows)
        original = self.walk.original(target.there)
        current = self.walk.changed([linear.source, *target.here]) if values is None else values.read
        features = 0 if values is None else values.layout.features

        def read(at: int) -> list[Rows | None]:
            here = current(at)
            y, weights = target.rows(self._reader(original(at), linear, at), self._reader(here, linear, at))
            x = self._rows(here, linear.source, linear.axes, at)
            if len(x) != len(y):
                raise _OtherPositionsError
            x = x[:, columns] if len(columns) < x.shape[1] else x
            if values is not None:
                x = np.concatenate([x, values.features(here, self.walk.feeds[at], self._learn)], axis=1)
            return [(x, y, weights)]

        found: list[Moments] = []
        workers = self.walk.parts.workers
        for part in self._data:
            empty = Moments(len(columns) + features, linear.matrix.columns)
            reached = [at for at in part if self._running.reaches(at, linear.node)]
            try:
                found += gather([empty], workers.each(read, reached), workers)
            except _OtherPositionsError:
                return None
        return found[0], found[1]

    def _reader(self, values: Mapping[str, Array], linear: Linear, at: int) -> RowsOf:
        """Gives values as rows of a map's outputs."""
        return lambda value: self._rows(values, value, linear.out_axes, at)

    def _rows(self, outputs: Mapping[str, Array], value: Value, axes: Sequence[int], at: int) -> Array:
        feed = self.walk.feeds[at]
        return finite(token_rows(outputs[value.name], axes, feed, self._learn.inputs), value)
