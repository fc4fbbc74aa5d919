"""The original and the pruned model side by side: the inputs and outputs of each refitted layer, as rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from onnxheadprune.choosing.activations.boundaries import Boundaries
from onnxheadprune.choosing.activations.contexts import finite
from onnxheadprune.choosing.activations.linear import Linear
from onnxheadprune.choosing.activations.moments import Moments, Rows, gather
from onnxheadprune.choosing.activations.parts import Parts, Running
from onnxheadprune.choosing.activations.walk import Variant, Walk
from onnxheadprune.choosing.compensation.targets import RowsOf, Target
from onnxheadprune.choosing.compensation.tasks import Run
from onnxheadprune.choosing.compensation.values import Context, Values
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.drift import token_rows
from onnxheadprune.edit.submodel import NOTHING
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.runtime import Array

Read: TypeAlias = Callable[[int], "list[Rows | None]"]
"""Gives the rows of a feed."""
ROWS_OF_LINKS = 1024
"""Positions that are looked at to tell what lies between two additions."""

WIDE = 1.5
"""Outputs per input, beyond which products of inputs alone are less work than products of inputs with targets."""


class _OtherPositionsError(Exception):
    """The pruned model processes other positions than the original."""


class Pair:
    """Both models, run layer by layer.

    Attributes:
        walk: runs them from one layer to the next.
    """

    def __init__(
        self,
        parts: Parts,
        boundaries: Boundaries,
        nodes: Iterable[Node],
        data: tuple[Calibration, Calibration],
        changed: Mapping[str, Array],
    ) -> None:
        """Start both models at their inputs.

        Args:
            changed: contents of stored tensors that differ in the pruned model; each refit adds to it.
        """
        self._learn, held = data
        feeds = (*self._learn.feeds, *held.feeds)
        self.walk = Walk(parts, boundaries, feeds, self._learn.source)
        self._pruned = Variant(boundaries.changed)
        self.walk.start(self._pruned, ((at, NOTHING) for at in range(len(feeds))), changed)
        self._running = Running(parts, nodes, feeds, self._learn.source)
        self._known: tuple[tuple[object, ...], tuple[Moments, Moments]] | None = None

    @property
    def _data(self) -> tuple[range, range]:
        """Indices of the feeds to learn from, and of the held-out feeds."""
        first = len(self._learn.feeds)
        return range(first), range(first, len(self.walk.feeds))

    def runs(self, linear: Linear) -> bool:
        """Return whether a layer runs on a feed of both parts of the data."""
        return all(self._running.is_reached(linear.node, part) for part in self._data)

    def target(self, linear: Linear, run: Run | None) -> Target:
        """Return the target of a layer; where possible, the one that replaces the removed run after it."""
        if run is None:
            return Target(linear)
        read = self.walk.read(run.passed, self._pruned)
        feeds: list[RowsOf] = []
        count = 0
        for at in self._data[0]:
            if not self._running.reaches(at, linear.node):
                continue
            feeds.append(self._reader(read(at), linear, at))
            count += len(feeds[-1](linear.out))
            if count >= ROWS_OF_LINKS:
                break
        return Target.standing_in(linear, run, feeds)

    def values(
        self, target: Target, makers: Sequence[Linear], heads: tuple[Sequence[int], ...]
    ) -> Values | None:
        """The linear layer that computes the values of some heads, None if it cannot be refitted alone."""
        linear = target.linear
        return Values.of(
            self.walk,
            self._pruned,
            makers,
            Context(linear.source, linear.axes, heads),
            self._learn,
            target.here,
            lambda feed: self._running.reaches(feed, linear.node),
        )

    def moments(
        self, target: Target, rows: Sequence[int], values: Values | None
    ) -> tuple[Moments, Moments] | None:
        """Moments of a layer's inputs in the pruned model and of their target outputs.

        Returns:
            Moments of the data to learn from, and of the held-out data; None if the pruned model processes other
            positions than the original.
        """
        linear = target.linear
        if values is None and len(rows) == linear.matrix.rows and _gives_more_than_it_reads(target):
            found = self._of_inputs(linear)
            weight, bias = linear.matrix.read(), linear.read_bias()
            return None if found is None else (found[0].through(weight, bias), found[1].through(weight, bias))
        self.forget()
        features = 0 if values is None else values.layout.features
        read = self._with_targets(target, list(rows), values)
        return self._gathered(linear, len(rows) + features, linear.matrix.columns, read)

    def forget(self) -> None:
        """Forget all inputs, since layers before them have changed."""
        self._known = None

    def _of_inputs(self, linear: Linear) -> tuple[Moments, Moments] | None:
        """Moments of inputs of a map in both models, [x, z]. Maps that read the same one after the other share them."""
        key = linear.source, linear.axes, *map(tuple, self._reached(linear))
        if self._known is not None and self._known[0] == key:
            return self._known[1]
        self.forget()
        found = self._gathered(linear, 2 * linear.matrix.rows, 0, self._inputs(linear))
        self._known = None if found is None else (key, found)
        return found

    def _inputs(self, linear: Linear) -> Read:
        """Read inputs of a layer in the pruned model and in the original, side by side."""
        original, current = self.walk.original([linear.source]), self.walk.read([linear.source], self._pruned)

        def read(at: int) -> list[Rows | None]:
            z = self._rows(original(at), linear.source, linear.axes, at)
            x = self._rows(current(at), linear.source, linear.axes, at)
            if len(x) != len(z):
                raise _OtherPositionsError
            return [(np.concatenate([x, z], axis=1), None, None)]

        return read

    def _with_targets(self, target: Target, columns: list[int], values: Values | None) -> Read:
        """Read inputs of a layer in the pruned model, and its target outputs for them."""
        linear = target.linear
        original = self.walk.original(target.there)
        current = (
            self.walk.read([linear.source, *target.here], self._pruned) if values is None else values.read
        )

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

        return read

    def _gathered(
        self, linear: Linear, features: int, targets: int, read: Read
    ) -> tuple[Moments, Moments] | None:
        """Moments of both parts of the data, None if the two models process other positions."""
        found: list[Moments] = []
        workers = self.walk.parts.workers
        for reached in self._reached(linear):
            empty = Moments(features, targets)
            try:
                found += gather([empty], workers.each(read, reached), workers)
            except _OtherPositionsError:
                return None
        return found[0], found[1]

    def _reached(self, linear: Linear) -> list[list[int]]:
        """The feeds of both parts of the data that run a layer."""
        return [[at for at in part if self._running.reaches(at, linear.node)] for part in self._data]

    def _reader(self, values: Mapping[str, Array], linear: Linear, at: int) -> RowsOf:
        """Return a function that arranges values as rows of a layer's outputs."""
        return lambda value: self._rows(values, value, linear.out_axes, at)

    def _rows(self, outputs: Mapping[str, Array], value: Value, axes: Sequence[int], at: int) -> Array:
        feed = self.walk.feeds[at]
        return finite(token_rows(outputs[value.name], axes, feed, self._learn.inputs), value)


def _gives_more_than_it_reads(target: Target) -> bool:
    """Return whether moments of inputs alone are enough for a layer.

    Its outputs in the original are products of its inputs there. So outputs wider than inputs need not be computed
    row by row.
    """
    linear = target.linear
    # What is quantized on its way into the product is something else there.
    is_product = linear.source in linear.node.inputs and not linear.matrix.is_quantized
    return target.is_what_it_gave and is_product and linear.matrix.columns > WIDE * linear.matrix.rows
