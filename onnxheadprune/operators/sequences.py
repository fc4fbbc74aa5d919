"""Tensor sequences, which unoptimized exports use for `split` and `unbind`.

A sequence of equal chunks is seen as a tensor with one more, leading axis that numbers the chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxheadprune.edit.edits import MARK, AddConstant, Edit, SetInput
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.picking import place
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, inexpressible, rule, unknown_shape
from onnxheadprune.model.graph.facts import MAKES_CHUNKS, TAKES_CHUNKS
from onnxheadprune.model.graph.tables import Shapes, shape_function
from onnxheadprune.model.graph.view import Node

TAKES_CHUNKS.add("SequenceAt")
MAKES_CHUNKS.add("SplitToSequence")


@shape_function("SequenceAt")
def _at_shape(node: Node) -> Shapes:
    shape = node.shape(0)
    return [None if shape is None else shape[1:]]


@rule("SequenceAt")
def sequence_at(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """One chunk is one index of the leading axis."""
    shape, position = node.shape(0), node.literal(1)
    if shape is None or position is None or not isinstance(shape[0], int):
        return unknown_shape(node)
    chunk = np.array([int(position.reshape(-1)[0]) % shape[0]])
    inside = Live.over([axis + 1 for axis in lives[0].axes], lives[0].array)
    back = place(inside, {0: (chunk, shape[0])})
    others = place(Live.over((), np.array(True)), {0: (chunk, shape[0])})
    return Answer({0: back}, selects=frozenset({0}), accepts=lambda have: (have & others) == back.as_mask())


@shape_function("SplitToSequence")
def _chunks_shape(node: Node) -> Shapes:
    """A sequence of equal chunks, as a tensor with a leading axis that numbers them."""
    shape = node.shape(0)
    if shape is None:
        return [None]
    axis = node.attribute("axis", 0) % len(shape)
    whole = shape[axis]
    if not isinstance(whole, int):
        return [None]
    if node.input(1) is None:
        kept = (
            (*shape[:axis], 1, *shape[axis + 1 :])
            if node.attribute("keepdims", 1)
            else (
                *shape[:axis],
                *shape[axis + 1 :],
            )
        )
        return [(whole, *kept)]
    sizes = node.literal(1)
    if sizes is None:
        return [None]
    chunks = {int(size) for size in sizes.reshape(-1)}
    if len(chunks) != 1 or whole % (size := chunks.pop()) or (sizes.ndim and sizes.size * size != whole):
        return [None]
    return [(whole // size, *shape[:axis], size, *shape[axis + 1 :])]


@rule("SplitToSequence")
def split_to_sequence(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """The chunks' masks side by side are the mask of the input; the chunk size follows."""
    live, shape, chunks = lives[0], node.shape(0), node.out.shape
    if shape is None or chunks is None or not isinstance(chunks[0], int):
        return unknown_shape(node)
    axis, count = node.attribute("axis", 0) % len(shape), chunks[0]
    dropped = node.input(1) is None and not node.attribute("keepdims", 1)
    size = 1 if dropped else chunks[axis + 1]
    if not isinstance(size, int):
        return unknown_shape(node)
    mapping = {a: a - 1 if not dropped or a - 1 < axis else a for a in live.axes if a != 0}
    if 0 in live.axes and axis + 1 not in live.axes and size > 1:
        return inexpressible(node)
    joined = _joined(live, mapping, axis, count, size)
    kept = size
    if axis + 1 in live.axes and not dropped:
        kept = live.extent(axis + 1)[0]

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        if kept == size:
            return []
        name = f"{node.out.name}/{MARK}_chunk"
        return [AddConstant(node.scope.ref, name, (kept,), scalar=True), SetInput(node.ref, 1, name)]

    return Answer({0: joined}, rewrite)


def _joined(live: Live, mapping: Mapping[int, int], axis: int, count: int, size: int) -> Live:
    """The mask over `(chunk, within the chunk)` read as one mask over the split axis."""
    within = [a for a in live.axes if a != 0 and mapping[a] == axis]
    rest = [a for a in live.axes if a != 0 and a not in within]
    axes = sorted([0, *within, *rest])
    sizes = [count if a == 0 else live.period(a) for a in axes]
    array = live.aligned(axes, sizes)
    array = (
        np.repeat(array[:, None], size, axis=1)
        if not within
        else np.moveaxis(array, axes.index(within[0]), 1)
    )
    merged = array.reshape(count * size, *array.shape[2:])
    return Live.over([axis, *(mapping[a] for a in rest)], merged)
