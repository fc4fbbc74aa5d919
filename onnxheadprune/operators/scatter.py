"""Scatter: updates are written into data at indexed places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxheadprune.liveness.live import FULL, Array, Live
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, inexpressible, rule, unknown_shape
from onnxheadprune.model.graph.facts import WRITES_INTO
from onnxheadprune.model.graph.tables import Roles, Shapes, declare, shape_function
from onnxheadprune.model.graph.view import Node, Value

declare("ScatterND", kinds=(WRITES_INTO,), roles=Roles(contents=(0, 2), places_in={1: 0}))
declare("ScatterElements", kinds=(WRITES_INTO,), roles=Roles(contents=(0, 2), rows={1: 0}))


@shape_function("ScatterND", "ScatterElements")
def _scatter_shape(node: Node) -> Shapes:
    return [node.shape(0)]


@rule("ScatterElements")
def _scatter_elements(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Data, indices and updates run in parallel on every axis but the scattered one."""
    data, indices, updates, live = node.shape(0), node.shape(1), node.shape(2), lives[0]
    if data is None or indices is None or updates is None:
        return unknown_shape(node)
    axis = node.attribute("axis", 0) % len(data)
    if axis in live.axes or any(data[a] != indices[a] or data[a] != updates[a] for a in live.axes):
        return inexpressible(node)
    return Answer({0: live, 1: live, 2: live})


@rule("ScatterND", ragged=True)
def _scatter_nd(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Axes of the data behind the indexed ones are axes of the updates too."""
    data, indices, live = node.shape(0), node.shape(1), lives[0]
    if data is None or indices is None or not isinstance(indices[-1], int):
        return unknown_shape(node)
    depth = indices[-1]
    if all(axis >= depth for axis in live.axes):
        return Answer({0: live, 2: live.renumbered({a: a - depth + len(indices) - 1 for a in live.axes})})
    places, sizes = node.literal(1), [size for size in data[:depth] if isinstance(size, int)]
    if (
        places is not None
        and len(sizes) == depth
        and node.attribute("reduction", "none") in ("none", b"none")
    ):
        return _known_places(node, live, places, sizes)
    return _slice_assignment(node, live)


def _known_places(node: Node, live: Live, places: Array, sizes: Sequence[int]) -> Answer | Refusal:
    """`data[1, 0] = updates`, the keys of one layer in the cache of all: each row may have heads of its own.

    Nobody reads what is written over. It is narrowed like the rest all the same, since it lies in one tensor with it.
    """
    depth = len(sizes)
    own = [axis for axis in live.axes if axis >= depth]
    axes = [*range(depth), *own]
    rows = live.aligned(axes, [*sizes, *(live.period(axis) for axis in own)])
    written = rows[tuple(np.moveaxis(places, -1, 0))]
    leading = places.ndim - 1
    updates = Live.over([*range(leading), *(axis - depth + leading for axis in own)], written)
    if live.is_mask:
        if not rows.any(axis=tuple(range(depth, rows.ndim))).all():
            return inexpressible(node)
        return Answer({0: live, 2: updates})
    rows = rows.copy()
    rows[tuple(np.moveaxis(places, -1, 0))] = 0
    return Answer({0: Live.over(axes, rows), 2: updates})


def _slice_assignment(node: Node, live: Live) -> Answer | Refusal:
    """`data[:, :, :, j] = updates`, as TorchScript writes it: every element is addressed, on whole axes by counting.

    What is left of such an axis is counted again from zero, so the indices keep their first entries.
    """
    data, updates, indices = node.shape(0), node.shape(2), node.input(1)
    if live.is_mask and not live.is_product:
        return inexpressible(node)
    if data is None or updates is None or indices is None or len(updates) != len(data):
        return unknown_shape(node)
    for axis in live.axes:
        if data[axis] != updates[axis] or not _counts_along(indices, axis, len(data)):
            return inexpressible(node)
    if not live.is_mask:
        return Answer({0: live, 2: live})
    first = FULL
    for axis in live.axes:
        count, whole = live.extent(axis)
        first = first & Live.over((axis,), np.arange(whole) < count)
    return Answer({0: live, 1: first, 2: live})


def _counts_along(indices: Value, axis: int, rank: int) -> bool:
    """Return whether component `axis` of the indices is the position along that axis of the updates."""
    concat = indices.producer
    if concat is None or concat.op_type != "Concat" or len(concat.inputs) != rank:
        return False
    if concat.attribute("axis") not in (-1, rank):
        return False
    value = concat.inputs[axis]
    for op_type in ("Unsqueeze", "Expand"):
        if value is None or value.producer is None or value.producer.op_type != op_type:
            return False
        value = value.producer.inputs[0]
    elements = None if value is None else value.elements
    if elements is None or elements.ndim > rank:
        return False
    shape = [1] * elements.ndim
    offset = rank - elements.ndim
    if axis < offset:
        return False
    shape[axis - offset] = elements.shape[axis - offset]
    return list(elements.shape) == shape and list(elements.reshape(-1)) == list(range(elements.size))
