"""Views: Reshape and Flatten, Transpose, Unsqueeze and Squeeze give the same elements other axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnxheadprune.edit.edits import Edit
from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.axes import reshape_back
from onnxheadprune.liveness.index_notation import ONE, Notation, numbered
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Refusal, inexpressible, unknown_shape
from onnxheadprune.liveness.target_shapes import target_literals
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, product
from onnxheadprune.model.graph.elements import Elements, elements_of
from onnxheadprune.model.graph.operator import REREADS, Roles, Shapes
from onnxheadprune.model.graph.view import Node, named
from onnxheadprune.operators.record import operator


def _reshape_shape(node: Node) -> Shapes:
    data, target = node.shape(0), node.input(1)
    if target is None or target.elements is None or target.elements.ndim != 1:
        return [None]
    result: list[Dim | None] = []
    unknown: int | None = None
    for axis, item in enumerate(target.elements):
        if item == 0 and not node.attribute("allowzero", 0):
            result.append(data[axis] if data is not None and axis < len(data) else None)
        else:
            result.append(None if item == -1 else item)
            unknown = axis if item == -1 else unknown
    others = [dim for axis, dim in enumerate(result) if axis != unknown]
    if unknown is not None and data is not None and None not in others:
        result[unknown] = dims.quotient(data, [dim for dim in others if dim is not None])
    elif unknown is None and data is not None and result.count(None) == 1:
        missing = result.index(None)
        result[missing] = dims.quotient(data, [dim for dim in result if dim is not None])
    return [tuple(named(dim, node, axis) for axis, dim in enumerate(result))]


def _same_numbers(node: Node) -> Elements | None:
    data, sizes = elements_of(node, 0), [dim for dim in node.out.shape or () if isinstance(dim, int)]
    known = node.out.shape is not None and len(sizes) == len(node.out.shape)
    return data.reshape(sizes) if data is not None and known and math.prod(sizes) == data.size else None


def _reshape(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Live indices are flattened and split anew inside each group of axes; the target gets literals."""
    live, in_shape, out_shape = lives[0], node.shape(0), node.out.shape
    if in_shape is None or out_shape is None:
        return unknown_shape(node)
    back = reshape_back(live, in_shape, out_shape)
    copied = None if back is None else _copied(node, back, live)
    if back is None or copied is None:
        return inexpressible(node)

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        return target_literals(node, 1, live, copied=copied)

    return Answer({0: back}, rewrite)


def _copied(node: Node, back: Live, live: Live) -> dict[int, int] | None:
    """Sizes that a 0 in the target takes from input axes that get narrower; None if one has no number.

    Where input and output axis get narrower alike (`batch * heads`), what is copied is right by itself. An element
    that is not known may be a 0 where both axes are as long.
    """
    target, in_shape, out_shape = node.input(1), node.shape(0), node.out.shape
    if target is None or node.attribute("allowzero", 0):
        return {}
    assert in_shape is not None
    assert out_shape is not None
    elements = None if target.elements is None else target.elements.reshape(-1)
    copied: dict[int, int] = {}
    for axis in [axis for axis in back.axes if axis < len(out_shape)]:
        is_zero = elements is not None and elements[axis] == 0
        unknown = elements is None or elements[axis] is None
        if not is_zero and not (unknown and in_shape[axis] == out_shape[axis]):
            continue
        size, own = live.narrow(out_shape[axis], axis), back.narrow(in_shape[axis], axis)
        if isinstance(size, int) and (is_zero or size != own):
            copied[axis] = size
        elif size != own:
            return None
    return copied


def _flatten_shape(node: Node) -> Shapes:
    shape = node.shape(0)
    if shape is None:
        return [None]
    axis = node.attribute("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return [(dims.product(shape[:axis]), dims.product(shape[axis:]))]


def _flatten(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """A Reshape whose target is computed by the operator itself."""
    in_shape = node.shape(0)
    if in_shape is None:
        return unknown_shape(node)
    axis = node.attribute("axis", 1)
    axis = axis + len(in_shape) if axis < 0 else axis
    back = reshape_back(lives[0], in_shape, (product(in_shape[:axis]), product(in_shape[axis:])))
    return inexpressible(node) if back is None else Answer({0: back})


def _transpose(node: Node) -> Notation | None:
    shape = node.shape(0)
    if shape is None:
        return None
    letters = numbered(len(shape))
    order = node.attribute("perm", list(reversed(range(len(shape)))))
    return Notation(((0, letters),), tuple(letters[axis] for axis in order))


def _transpose_numbers(node: Node) -> Elements | None:
    data = elements_of(node, 0)
    return None if data is None else data.transpose(node.attribute("perm"))


def _unsqueeze(node: Node) -> Notation | None:
    shape, axes = node.shape(0), node.int_list("axes", 1)
    if shape is None or axes is None:
        return None
    rank, letters = len(shape) + len(axes), numbered(len(shape))
    inserted, rest = {axis % rank for axis in axes}, iter(letters)
    return Notation(((0, letters),), tuple(ONE if axis in inserted else next(rest) for axis in range(rank)))


def _squeeze(node: Node) -> Notation | None:
    shape, axes = node.shape(0), node.int_list("axes", 1)
    if shape is None or axes is None:
        return None
    letters, dropped = numbered(len(shape)), {axis % len(shape) for axis in axes}
    return Notation(
        ((0, letters),), tuple(letter for axis, letter in enumerate(letters) if axis not in dropped)
    )


operator(
    "Reshape",
    kinds=(REREADS,),
    roles=Roles(places=(1,), target=1),
    shape=_reshape_shape,
    elements=_same_numbers,
    rule=_reshape,
    ragged=True,
    repeats=True,
)
operator("Flatten", shape=_flatten_shape, rule=_flatten, ragged=True, repeats=True)
operator("Transpose", axes=_transpose, elements=_transpose_numbers)
operator("Unsqueeze", kinds=(REREADS,), roles=Roles(places=(1,)), axes=_unsqueeze, elements=_same_numbers)
operator("Squeeze", kinds=(REREADS,), roles=Roles(places=(1,)), axes=_squeeze, elements=_same_numbers)
