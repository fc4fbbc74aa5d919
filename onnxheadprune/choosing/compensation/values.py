"""The linear layer that computes a site's values, recognised by a test: the context is linear in its outputs.

Nothing is assumed about the attention between the two. The part of the model from the layer to the context is run
on values that are scaled or exchanged, column by column, and a layer that passes computes values: this holds for
softmax and linear attention, for fused operators, packed projections and grouped heads alike. Where a fused attention
projects inside, no value can be exchanged; there columns of its weights are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxheadprune.choosing.activations.linear import PROJECTS, Linear
from onnxheadprune.choosing.activations.walk import BatchReader, Variant, Walk
from onnxheadprune.choosing.compensation.fit import Ints, Layout
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.drift import token_rows
from onnxheadprune.errors import InferenceError
from onnxheadprune.model.graph.view import Value
from onnxheadprune.runtime import Array, Session
from onnxheadprune.runtime.feeds.generate import Feed

FEATURES = 1024
"""Most features for all heads of a site: bounds the Gram matrix, whatever the model's width."""
SAME = 1e-5
"""Squared relative difference up to which two contexts are the same."""
ROWS_PER_INPUT = 2
"""Rows that the main directions of the layer's inputs are taken from, per input."""


@dataclass(frozen=True, eq=False)
class Context:
    """The context that a site's projection reads."""

    value: Value  # the context
    axes: tuple[int, ...]  # its axes that hold channels
    heads: tuple[Sequence[int], ...]  # channels of each remaining head


class Values:
    """A value layer, and features to compute the contexts for any other values.

    Attributes:
        linear: the layer.
        layout: its place among the features.
        used: columns of its weights that the kept heads use.
        basis: main directions of its inputs, [in, directions].
        read: yields its inputs and all other values up to the context, feed by feed.
    """

    def __init__(
        self, linear: Linear, read: BatchReader, after: Session, context: Context, inside: Mapping[str, Array]
    ) -> None:
        """A candidate, to be tested by `fits`.

        Args:
            read: yields its inputs and all other values up to the context, feed by feed.
        """
        self.linear, self.read = linear, read
        self._after, self._context, self._axes = after, context.value, context.axes
        self._names = tuple(inside)
        self._inside = np.vstack(list(inside.values())) if inside else None
        self.layout = Layout(np.zeros((0, 0), int), np.zeros((0, 0), int), 0)
        self.used: Ints = np.zeros(0, int)
        self.basis: Array = np.zeros((0, 0))
        self._heads: Ints = np.zeros((0, 0), int)
        self._columns: Ints = np.zeros((0, 0), int)

    @classmethod
    def of(
        cls,
        walk: Walk,
        pruned: Variant,
        maps: Sequence[Linear],
        context: Context,
        data: Calibration,
        also: Sequence[Value] = (),
        runs_on: Callable[[int], bool] = lambda feed: True,
    ) -> Values | None:
        """The linear layer that computes the values of some heads, None if none can be refitted alone."""
        if len({len(channels) for channels in context.heads}) != 1:
            return None
        for linear in maps:
            entering = walk.boundaries.entering(
                linear.node if linear.is_inside else linear.out, context.value
            )
            try:
                read = walk.read([linear.source, linear.out, context.value, *entering, *also], pruned)
                here = read(0)
                columns = _weights_inside(linear, here[linear.source.name]) if linear.is_inside else {}
                given = [*columns, *(item.name for item in entering if item.name in here)]
                after = walk.parts.between({**here, **columns}, given, context.value)
                found = cls(linear, read, after, context, columns)
                if found.fits(context.heads, here):
                    kept = sorted(channel for head in context.heads for channel in head)
                    return found if found.prepare(data, kept, runs_on) else None
            except InferenceError:
                # A part of a model asks more of ONNX Runtime than the whole. Then the values stay unchanged.
                continue
        return None

    def fits(self, heads: Sequence[Sequence[int]], here: Mapping[str, Array]) -> bool:
        """Return whether the layer computes the values of all these heads, each with equal use of its channels."""
        self._heads = np.array(heads)
        value, source = self._columns_of(here), here[self.linear.source.name]
        if self._inside is None and value.shape[:-1] != source.shape[:-1]:
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

    def prepare(self, data: Calibration, kept: Sequence[int], runs_on: Callable[[int], bool]) -> bool:
        """Compute the main directions of the layer's inputs; return whether there is room for any."""
        heads, size = self._heads.shape
        width = self.linear.matrix.rows
        directions = min(FEATURES // heads, width) // size * size
        if not directions:
            return False
        self.basis = _main_directions(self._inputs(data, ROWS_PER_INPUT * width, runs_on), directions)
        self.used = np.unique(self._columns)
        place = {channel: at for at, channel in enumerate(kept)}
        channels = np.array([[place[channel] for channel in head] for head in self._heads])
        self.layout = Layout(channels, np.searchsorted(self.used, self._columns), directions)
        return True

    def features(self, here: Mapping[str, Array], feed: Feed, data: Calibration) -> Array:
        """The attention-weighted main directions of the inputs per head, [rows, heads x directions]."""
        value, inputs = self._columns_of(here), self.basis
        if self._inside is None:
            inputs = here[self.linear.source.name] @ inputs
        else:
            # A bias would be a part of every feature.
            inputs = np.pad(inputs, ((0, len(value) - len(inputs)), (0, 0)))
        inputs = inputs.astype(value.dtype)
        heads, size = self._heads.shape
        seen = []
        for start in range(0, self.basis.shape[1], size):
            replaced = value.copy()
            replaced[..., self._columns] = inputs[..., None, start : start + size]
            context = self._run(here, replaced)
            seen.append(token_rows(context, self._axes, dict(feed), data.inputs)[:, self._heads])
        return np.stack(seen, axis=2).reshape(-1, heads * self.basis.shape[1])

    def _columns_of(self, here: Mapping[str, Array]) -> Array:
        """The layer's outputs, or its weights and bias one below the other: both have a column per output."""
        return here[self.linear.out.name] if self._inside is None else self._inside

    def _run(self, here: Mapping[str, Array], value: Array) -> Array:
        given = {self.linear.out.name: value}
        if self._inside is not None:
            rows = self.linear.matrix.rows
            given = dict(zip(self._names, (value[:rows], *value[rows:]), strict=True))
        return self._after.run({**here, **given})[self._context.name]

    def _rows(self, here: Mapping[str, Array], value: Array) -> Array:
        """Contexts as [positions, channels]."""
        return token_rows(self._run(here, value), self._axes, {}, ())

    def _inputs(self, data: Calibration, most: int, runs_on: Callable[[int], bool]) -> Array:
        found: list[Array] = []
        for at, feed in enumerate(data.feeds):
            if not runs_on(at):
                continue
            source = self.read(at)[self.linear.source.name]
            found.append(token_rows(source, self.linear.axes, dict(feed), data.inputs))
            if sum(map(len, found)) >= most:
                break
        return np.concatenate(found)


def _weights_inside(linear: Linear, source: Array) -> dict[str, Array]:
    """The weight and the bias of a projection inside of a fused attention, by the names that its node reads."""
    weight, bias = (linear.node.input(index) for index in PROJECTS[1:])
    assert weight is not None
    found = {weight.name: linear.matrix.read().astype(source.dtype)}
    if bias is not None:
        stored = linear.read_bias() if linear.fixed is None else linear.read_offset()
        assert stored is not None
        found[bias.name] = stored.astype(source.dtype)
    return found


def _ratios(before: Array, after: Array) -> tuple[Array, bool]:
    """The factor of each channel, and whether it was only multiplied."""
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
