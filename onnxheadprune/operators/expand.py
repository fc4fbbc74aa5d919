"""Expand, Tile and ConstantOfShape: the same elements more often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import numpy_helper

from onnxheadprune.edit.edits import Edit
from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.axes import broadcast_back
from onnxheadprune.liveness.live import FULL, Live, unite
from onnxheadprune.liveness.refusals import Refusal, inexpressible, unknown_shape
from onnxheadprune.liveness.target_shapes import target_literals
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import broadcast
from onnxheadprune.model.graph.elements import MAX_ELEMENTS, Elements, boxed, elements_of
from onnxheadprune.model.graph.operator import Roles, Shapes
from onnxheadprune.model.graph.view import Node, named
from onnxheadprune.model.tensors import Array
from onnxheadprune.operators.record import operator


def _expand_shape(node: Node) -> Shapes:
    shape, target = node.shape(0), node.input(1)
    if target is None or target.elements is None or target.elements.ndim != 1:
        return [None]
    wanted = tuple(named(item, node, axis) for axis, item in enumerate(target.elements))
    return [broadcast([shape, wanted])]


def _expand(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """A broadcast against a target shape: repeated axes just repeat less often."""
    live, in_shape, out_shape = lives[0], node.shape(0), node.out.shape
    if in_shape is None or out_shape is None:
        return unknown_shape(node)
    back = broadcast_back(live, in_shape, out_shape)
    if back is None:
        return unknown_shape(node)

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        return target_literals(node, 1, live)

    return Answer({0: back}, rewrite)


def _tile_shape(node: Node) -> Shapes:
    shape, repeats = node.shape(0), node.input(1)
    if shape is None or repeats is None or repeats.elements is None or repeats.elements.size != len(shape):
        return [None]
    factors = repeats.elements.reshape(-1)
    return [
        tuple(
            named(None if factor is None else dims.multiply(dim, factor), node, axis)
            for axis, (dim, factor) in enumerate(zip(shape, factors, strict=True))
        )
    ]


def _tile(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """An axis of size 1 repeats less often; of a longer one go whole repetitions, and what goes from all of them."""
    live, in_shape, repeats = lives[0], node.shape(0), node.literal(1)
    if in_shape is None:
        return unknown_shape(node)
    repeat = node.input(1)
    elements = None if repeat is None else repeat.elements
    once, kept, counts = live, live, dict[int, int]()
    for axis in live.axes:
        # A repeated axis passes if the mask repeats with it, as heads do in `batch * heads`.
        factor, size, period = None if elements is None else elements[axis], in_shape[axis], live.period(axis)
        if size == 1 or factor == 1 or size == period:
            continue
        if not (isinstance(factor, int) and isinstance(size, int) and size * factor == period):
            return inexpressible(node)
        if not live.is_product:
            return inexpressible(node)
        once, kept, count = _repetitions(once, kept, axis, factor)
        counts |= {axis: count} if count < factor else {}
    ones = [dim == 1 for dim in in_shape]
    if repeats is None and any(ones[axis] for axis in live.axes):
        return inexpressible(node)
    if not live.is_product and any(ones[axis] for axis in live.axes[:-1]):
        # Which repetitions survive differs between the rows of a later axis: a tile cannot follow that.
        return inexpressible(node)
    back = once.only([axis for axis in once.axes if not ones[axis]])

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        return target_literals(node, 1, kept, [axis for axis in kept.axes if ones[axis]], counts)

    return Answer({0: back}, rewrite, kept=(kept,))


def _repetitions(once: Live, kept: Live, axis: int, factor: int) -> tuple[Live, Live, int]:
    """The demand of one repetition, the kept part of all of them, and the number of needed ones."""
    if axis not in once.axes or axis not in kept.axes:
        return once, kept, factor
    rows = [_in_rows(live, axis, factor) for live in (once, kept)]
    alive = np.any(rows[1] != 0, axis=tuple(range(1, rows[1].ndim)))
    united = [unite(array, 0) for array in rows]
    repeated = np.stack([united[1] if row else np.zeros_like(united[1]) for row in alive])
    position = kept.axes.index(axis)
    repeated = np.moveaxis(repeated, 0, position).reshape(kept.array.shape)
    return Live.over(once.axes, united[0]), Live.over(kept.axes, repeated), int(alive.sum())


def _in_rows(live: Live, axis: int, factor: int) -> Array:
    """The array with the repetitions of `axis` as its first dimension."""
    position, shape = live.axes.index(axis), live.array.shape
    split = (*shape[:position], factor, shape[position] // factor, *shape[position + 1 :])
    return np.moveaxis(live.array.reshape(split), position, 0)


def _fill_shape(node: Node) -> Shapes:
    target = node.input(0)
    if target is None or target.elements is None or target.elements.ndim != 1:
        return [None]
    return [tuple(named(item, node, axis) for axis, item in enumerate(target.elements))]


def _fill_numbers(node: Node) -> Elements | None:
    shape, fill = elements_of(node, 0), node.attribute("value")
    if shape is None or shape.ndim != 1 or shape.size > 1 or fill is None:
        return None
    count = shape[0] if shape.size else 1
    if not isinstance(count, int) or not 0 <= count <= MAX_ELEMENTS:
        return None
    if not fill.int64_data and not fill.raw_data:
        return None
    number = numpy_helper.to_array(fill).reshape(-1)
    if number.dtype.kind not in "iu" or number.size != 1:
        return None
    return boxed([int(number[0])] * count, (count,) if shape.size else ())


def _constant_of_shape(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """A constant fill of any size."""
    live = lives[0]

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        return target_literals(node, 0, live)

    return Answer({0: FULL}, rewrite) if node.out.shape is not None else unknown_shape(node)


operator(
    "Expand", roles=Roles(places=(1,), target=1), shape=_expand_shape, rule=_expand, ragged=True, repeats=True
)
operator("Tile", roles=Roles(places=(1,)), shape=_tile_shape, rule=_tile, ragged=True)
operator(
    "ConstantOfShape",
    roles=Roles(places=(0,), target=0),
    shape=_fill_shape,
    elements=_fill_numbers,
    rule=_constant_of_shape,
)
