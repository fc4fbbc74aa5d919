"""Concat: pieces are joined along one axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxheadprune.edit.edits import DropInputs, Edit
from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.axis_masks import rows
from onnxheadprune.liveness.live import Live, fits
from onnxheadprune.liveness.refusals import Refusal, inexpressible, unknown_shape
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, simplicity
from onnxheadprune.model.graph.elements import MAX_ELEMENTS, Elements, boxed, elements_of
from onnxheadprune.model.graph.operator import Shapes
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.operators.record import operator


def _concat_shape(node: Node) -> Shapes:
    shapes = [value.shape for value in node.sources]
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes) or not known or len({len(shape) for shape in known}) != 1:
        return [None]
    axis = node.attribute("axis", 0) % len(known[0])
    total: Dim = 0
    for shape in known:
        total = dims.add(total, shape[axis])
    rest = [min((shape[i] for shape in known), key=simplicity) for i in range(len(known[0]))]
    rest[axis] = total
    return [tuple(rest)]


def _concat_numbers(node: Node) -> Elements | None:
    parts = [_part(node, index) for index in range(len(node.inputs))]
    if any(part is None or part.ndim != 1 for part in parts):
        return None
    if sum(part.size for part in parts if part is not None) > MAX_ELEMENTS:
        return None
    joined = np.concatenate([part for part in parts if part is not None])
    return None if all(item is None for item in joined) else joined


def _part(node: Node, index: int) -> Elements | None:
    """The elements of one piece of a vector; of unknown ones at least how many they are."""
    known, shape = elements_of(node, index), node.shape(index)
    if known is not None or shape is None or len(shape) != 1:
        return known
    count = shape[0]
    return boxed([None] * count, (count,)) if isinstance(count, int) and count <= MAX_ELEMENTS else None


def _concat(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Each input is its part of the output; an input of which nothing is live is dropped."""
    live, out_shape = lives[0], node.out.shape
    if out_shape is None:
        return unknown_shape(node)
    axis = node.attribute("axis", 0) % len(out_shape)
    inputs: dict[int, Live] = {}
    copies = _copies(node, live, axis)
    if copies is not None:
        live = copies
    start = 0
    for index, value in enumerate(node.inputs):
        if value is None or value.shape is None:
            return unknown_shape(node)
        size = value.shape[axis]
        piece = live
        if axis in live.axes:
            count = dims.divide(size, live.repeat(axis))
            if not isinstance(count, int) or start + count > live.period(axis):
                return inexpressible(node)
            array = live.array.take(range(start, start + count), axis=live.axes.index(axis))
            piece = Live.over(live.axes, array, live.repeats)
            start += count
        if size == 0 and out_shape[axis] != 0:
            # It adds nothing, and need not follow what becomes of the others.
            piece = Live((), np.zeros((), live.array.dtype))
        if not fits(piece, value.shape):
            return unknown_shape(node)
        inputs[index] = piece
    if not live.is_product and len({rows(piece, axis) for piece in inputs.values() if not piece.is_dead}) > 1:
        return inexpressible(node)

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        dead = tuple(index for index, piece in inputs.items() if piece.is_dead)
        return [DropInputs(node.ref, dead)] if dead else []

    return Answer(inputs, rewrite)


def _copies(node: Node, live: Live, axis: int) -> Live | None:
    """A mask that keeps the first of equal pieces; None unless one value is stacked, and which copies stay differs.

    Query heads of each group may go at other places: any copy of the shared head serves those that are left.
    """
    first, shape = node.inputs[0], live.dense_shape()
    if live.is_product or not live.is_mask or shape is None or live.axes[-1] != axis:
        return None
    if first is None or first.shape is None or first.shape[axis] != 1:
        return None
    if not all(value is not None and _are_twins(first, value) for value in node.inputs):
        return None
    row = np.arange(live.period(axis)) < shape[-1]
    return Live.over(live.axes, live.mask.any(axis=-1, keepdims=True) & row, live.repeats)


def _are_twins(first: Value, second: Value) -> bool:
    """Return whether two values are one, or the same view of one: an exporter writes a node for every copy."""
    one, other = first.producer, second.producer
    if first is second or one is None or other is None:
        return first is second
    same = (one.domain, one.op_type) == (other.domain, other.op_type) == ("", "Unsqueeze")
    if not same or list(one.proto.attribute) != list(other.proto.attribute):
        return False
    return (
        one.inputs[0] is other.inputs[0] and one.int_list("axes", 1) == other.int_list("axes", 1) is not None
    )


operator("Concat", shape=_concat_shape, elements=_concat_numbers, rule=_concat, ragged=True, repeats=True)
