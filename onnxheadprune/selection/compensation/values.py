"""The linear map that makes a site's values, recognised by what it does: the context is linear in its result.

Nothing is assumed about the attention between the two. The part of the model from the map to the context is run
on values that are scaled or exchanged, column by column, and whoever passes is a value: this holds for softmax and
linear attention, for fused operators, packed projections and grouped heads alike.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from onnxheadprune.attention.matrices import Array
from onnxheadprune.errors import InferenceError
from onnxheadprune.model.graph.view import GraphView, Value
from onnxheadprune.runtime import Provider, Session
from onnxheadprune.runtime.feeds import Feed
from onnxheadprune.selection.activations.contexts import run_feed
from onnxheadprune.selection.activations.data import Calibration, token_rows
from onnxheadprune.selection.activations.linear import Linear, feeders
from onnxheadprune.selection.compensation.tasks import is_free
from onnxheadprune.selection.compensation.value_fit import Ints, Layout
from onnxheadprune.selection.scoring.suffix import split

FEATURES = 1024
"""Most features for all heads of a site: bounds the Gram matrix, whatever the model's width."""
SAME = 1e-5
"""Squared relative difference up to which two contexts are the same."""
ROWS_PER_INPUT = 2
"""Rows that the main directions of the map's inputs are taken from, per input."""


class Values:
    """A value map, and what the heads would see of any other values.

    Attributes:
        linear: the map.
        layout: its place among the features.
        used: columns of its weights that the kept heads use.
        basis: main directions of its inputs, [in, directions].
        before: gives its inputs and all else up to the context.
    """

    def __init__(
        self, linear: Linear, before: Session, after: Session, context: Value, axes: Sequence[int]
    ) -> None:
        """A candidate, which `fits` then looks at."""
        self.linear, self.before = linear, before
        self._after, self._context, self._axes = after, context, tuple(axes)
        self.layout = Layout(np.zeros((0, 0), int), np.zeros((0, 0), int), 0)
        self.used: Ints = np.zeros(0, int)
        self.basis: Array = np.zeros((0, 0))
        self._heads: Ints = np.zeros((0, 0), int)
        self._columns: Ints = np.zeros((0, 0), int)

    def fits(self, heads: Sequence[Sequence[int]], here: Mapping[str, Array]) -> bool:
        """Whether the map makes the values of all these heads, and each head treats its channels alike.

        Args:
            heads: channels of the context per head.
            here: what `before` gives for some feed.
        """
        self._heads = np.array(heads)
        value, source = here[self.linear.out.name], here[self.linear.source.name]
        if value.shape[:-1] != source.shape[:-1]:
            return False
        context = self._rows(here, value)
        found = np.full(context.shape[1], -1)
        size = self._heads.shape[1]
        scales = np.linspace(1.5, 3.0, size).astype(value.dtype)
        for start in range(0, value.shape[-1] - size + 1, size):
            scaled = value.copy()
            scaled[..., start : start + size] *= scales
            ratio, exact = _ratios(context, self._rows(here, scaled))
            moved = np.flatnonzero(np.abs(ratio - 1) > 0.1)
            if exact:
                nearest = np.abs(scales[:, None] - ratio[moved]).argmin(axis=0)
                found[moved] = start + nearest
        self._columns = found[self._heads]
        if (self._columns < 0).any():
            return False
        turned = value.copy()
        turned[..., self._columns] = value[..., np.roll(self._columns, 1, axis=1)]
        expected = context[:, np.roll(self._heads, 1, axis=1)]
        return _same(expected, self._rows(here, turned)[:, self._heads])

    def prepare(self, data: Calibration, kept: Sequence[int]) -> bool:
        """Takes the main directions of the map's inputs; whether there is room for any."""
        heads, size = self._heads.shape
        width = self.linear.matrix.rows
        directions = min(FEATURES // heads, width) // size * size
        if not directions:
            return False
        self.basis = _main_directions(self._inputs(data, ROWS_PER_INPUT * width), directions)
        self.used = np.unique(self._columns)
        place = {channel: at for at, channel in enumerate(kept)}
        channels = np.array([[place[channel] for channel in head] for head in self._heads])
        self.layout = Layout(channels, np.searchsorted(self.used, self._columns), directions)
        return True

    def features(self, here: Mapping[str, Array], feed: Feed, data: Calibration) -> Array:
        """What each head sees of the main directions of the inputs, [rows, heads x directions]."""
        value = here[self.linear.out.name]
        inputs = (here[self.linear.source.name] @ self.basis).astype(value.dtype)
        heads, size = self._heads.shape
        seen = []
        for start in range(0, self.basis.shape[1], size):
            replaced = value.copy()
            replaced[..., self._columns] = inputs[..., None, start : start + size]
            context = self._run(here, replaced)
            seen.append(token_rows(context, self._axes, dict(feed), data.inputs)[:, self._heads])
        return np.stack(seen, axis=2).reshape(-1, heads * self.basis.shape[1])

    def _run(self, here: Mapping[str, Array], value: Array) -> Array:
        return self._after.run({**here, self.linear.out.name: value})[self._context.name]

    def _rows(self, here: Mapping[str, Array], value: Array) -> Array:
        """Contexts as [positions, channels]."""
        return token_rows(self._run(here, value), self._axes, {}, ())

    def _inputs(self, data: Calibration, most: int) -> Array:
        found: list[Array] = []
        for feed in data.feeds:
            here = {**feed, **run_feed(self.before, feed, data.source)}
            source = here[self.linear.source.name]
            found.append(token_rows(source, self.linear.axes, dict(feed), data.inputs))
            if sum(map(len, found)) >= most:
                break
        return np.concatenate(found)


def values_of(
    view: GraphView,
    context: Value,
    axes: Sequence[int],
    heads: Sequence[Sequence[int]],
    data: Calibration,
    provider: Provider,
    stored: Mapping[str, Array],
    also: Sequence[Value] = (),
    shared: Collection[int] = (),
) -> Values | None:
    """The map that makes the values of some heads, None if none can be changed by itself.

    Args:
        view: an annotated view of the original.
        context: what the site's projection reads.
        axes: axes of the context that hold its channels.
        heads: channels per head that stays, all heads of one size.
        data: calibration data.
        provider: where to run.
        stored: contents of initializers that are refitted already.
        also: further values that its `before` is to give.
        shared: nodes of maps that other sites read too.
    """
    if len({len(channels) for channels in heads}) != 1:
        return None
    for linear in reversed(feeders(context)):
        if linear.node.index in shared or not is_free(linear):
            continue
        wanted = [linear.source, context, *also]
        parts = split(view, [linear.out], [context.name], also=wanted, stored=stored)
        try:
            before, after = (
                Session(part, provider, name="part of the pruned model", optimize=True) for part in parts
            )
            found = Values(linear, before, after, context, axes)
            feed = data.feeds[0]
            if found.fits(heads, {**feed, **run_feed(before, feed, data.source)}):
                kept = sorted(channel for head in heads for channel in head)
                return found if found.prepare(data, kept) else None
        except InferenceError:
            # A part of a model asks more of ONNX Runtime than the whole. Then the values stay as they are.
            continue
    return None


def _ratios(before: Array, after: Array) -> tuple[Array, bool]:
    """By what each channel was multiplied, and whether it was only multiplied."""
    left, right = before.astype(np.float64), after.astype(np.float64)
    ratio = (left * right).sum(axis=0) / np.maximum((left * left).sum(axis=0), 1e-30)
    return ratio, _same(left * ratio, right)


def _same(left: Array, right: Array) -> bool:
    left, right = left.astype(np.float64), right.astype(np.float64)
    return bool(np.square(left - right).sum() <= SAME * max(np.square(left).sum(), 1e-30))


def _main_directions(rows: Array, count: int) -> Array:
    """An orthonormal basis of nearly the `count` principal components (subspace iteration, Halko et al. 2011)."""
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    basis = np.random.default_rng(0).standard_normal((rows.shape[1], count))
    for _ in range(3):
        basis, _ = np.linalg.qr(centred.T @ (centred @ basis))
    return basis
