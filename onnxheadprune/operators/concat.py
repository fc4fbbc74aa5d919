"""Split and Concat: one axis is cut into pieces, or pieces are joined along it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxheadprune.edit.edits import MARK, AddConstant, DropInputs, Edit, SetAttribute, SetDim, SetInput
from onnxheadprune.liveness.live import Live, fits
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, inexpressible, rule, unknown_shape
from onnxheadprune.liveness.rules.normalization import beside
from onnxheadprune.model.graph.dims import Dim
from onnxheadprune.model.graph.view import Node, Value


@rule("Split", ragged=True)
def split(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """The outputs' masks side by side are the input's mask; the sizes of the pieces follow."""
    shape = node.shape(0)
    if shape is None:
        return unknown_shape(node)
    axis = node.attribute("axis", 0) % len(shape)
    sizes = _piece_sizes(node, axis)
    if sizes is None:
        first = lives[0]
        agree = all(live == first for live in lives) and axis not in first.axes
        return Answer({0: first}) if agree else inexpressible(node)
    alive = [live for live in lives if not live.is_dead]
    if len({rows(live, axis) for live in alive}) > 1 or any(live.dense_shape() is None for live in alive):
        return inexpressible(node)
    joined = join(lives, sizes, axis)
    counts = [_count(live, size, axis) for live, size in zip(lives, sizes, strict=True)]

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        return [] if counts == sizes else [*_new_sizes(node, counts), *_empty(node, counts, axis)]

    return Answer({0: joined}, rewrite)


def _piece_sizes(node: Node, axis: int) -> list[int] | None:
    sizes: list[Dim] = []
    for output in node.outputs:
        if output is None or output.shape is None:
            return None
        sizes.append(output.shape[axis])
    numbers = [size for size in sizes if isinstance(size, int)]
    return numbers if len(numbers) == len(sizes) else None


def join(lives: Sequence[Live], sizes: Sequence[int], axis: int) -> Live:
    """Masks of pieces of `axis`, of the given sizes, as one mask of the whole."""
    axes = sorted({axis}.union(*(live.axes for live in lives)))
    periods = [int(np.lcm.reduce([live.period(other) for live in lives])) for other in axes]
    blocks = []
    for live, size in zip(lives, sizes, strict=True):
        periods[axes.index(axis)] = size
        blocks.append(live.aligned(axes, periods))
    return Live.over(axes, np.concatenate(blocks, axis=axes.index(axis)))


def _count(live: Live, size: int, axis: int) -> int:
    if live.is_dead:
        return 0
    return live.extent(axis)[0] if axis in live.axes else size


def _empty(node: Node, counts: Sequence[int], axis: int) -> Sequence[Edit]:
    """A piece of which nothing is live has width 0 and no reader; what is declared of it must say so."""
    return [
        SetDim(node.scope.ref, output.name, axis, 0)
        for output, count in zip(node.outputs, counts, strict=True)
        if count == 0 and output is not None
    ]


def _new_sizes(node: Node, counts: Sequence[int]) -> Sequence[Edit]:
    if node.opset < 13:
        return [SetAttribute(node.ref, "split", tuple(counts))]
    name = f"{node.out.name}/{MARK}_split"
    edits: list[Edit] = [AddConstant(node.scope.ref, name, tuple(counts)), SetInput(node.ref, 1, name)]
    if node.attribute("num_outputs") is not None:
        edits.append(SetAttribute(node.ref, "num_outputs", None))
    return edits


@rule("Concat", ragged=True)
def concat(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
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
            if not isinstance(size, int):
                return inexpressible(node)
            array = live.aligned(live.axes, live.array.shape)
            position = live.axes.index(axis)
            piece = Live.over(live.axes, array.take(range(start, start + size), axis=position))
            start += size
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
    if live.is_product or live.array.dtype.kind != "b" or shape is None or live.axes[-1] != axis:
        return None
    if first is None or first.shape is None or first.shape[axis] != 1:
        return None
    if not all(value is not None and _are_twins(first, value) for value in node.inputs):
        return None
    row = np.arange(live.period(axis)) < shape[-1]
    return Live.over(live.axes, live.mask.any(axis=-1, keepdims=True) & row)


def _are_twins(first: Value, second: Value) -> bool:
    """Whether two values are one, or the same view of one: an exporter writes a node for every copy."""
    one, other = first.producer, second.producer
    if first is second or one is None or other is None:
        return first is second
    same = (one.domain, one.op_type) == (other.domain, other.op_type) == ("", "Unsqueeze")
    if not same or list(one.proto.attribute) != list(other.proto.attribute):
        return False
    return (
        one.inputs[0] is other.inputs[0] and one.int_list("axes", 1) == other.int_list("axes", 1) is not None
    )


def rows(piece: Live, axis: int) -> tuple[tuple[int, ...], bytes]:
    """A fingerprint of what is live apart from `axis`."""
    rest = piece.only([other for other in piece.axes if other != axis])
    return rest.axes, rest.mask.tobytes()


@rule("Pad")
def pad(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Exact where the live axis is not padded; what a later Slice asks for of a padded one stays whole."""
    shape = node.shape(0)
    if shape is None:
        return unknown_shape(node)
    amounts = _pad_amounts(node, len(shape))
    if amounts is None:
        return inexpressible(node)
    rank = len(shape)
    live = beside(lives[0], [axis for axis in range(rank) if amounts[axis] != 0 or amounts[axis + rank] != 0])
    return inexpressible(node) if live is None else Answer({0: live}, kept=(live,))


def _pad_amounts(node: Node, rank: int) -> list[object] | None:
    listed = node.attribute("pads")
    if listed is not None:
        return list(listed)
    pads = node.inputs[1] if len(node.inputs) > 1 else None
    if pads is None or pads.elements is None or (node.input(3) is not None and node.literal(3) is None):
        return None
    elements = list(pads.elements)
    axes = node.literal(3)
    if axes is None:
        return elements if len(elements) == 2 * rank else None
    amounts: list[object] = [0] * (2 * rank)
    for position, axis in enumerate(axes.reshape(-1)):
        amounts[int(axis) % rank] = elements[position]
        amounts[int(axis) % rank + rank] = elements[position + axes.size]
    return amounts
