"""Shape, Size, Range, OneHot and NonZero: sizes and positions as whole numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import numpy_helper

from onnxheadprune.edit.edits import MARK, AddConstant, Edit, SetInput
from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.index_notation import Notation, numbered
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Refusal, inexpressible, unknown_shape
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Shape
from onnxheadprune.model.graph.elements import Elements, boxed, shape_range
from onnxheadprune.model.graph.operator import Shapes, is_a
from onnxheadprune.model.graph.view import Node, Value, named
from onnxheadprune.operators.record import operator


def _shape_shape(node: Node) -> Shapes:
    shape = node.shape(0)
    return [None if shape is None else (len(shape_range(node, len(shape))),)]


def _shape_numbers(node: Node) -> Elements | None:
    shape: Shape | None = node.shape(0)
    if shape is None:
        return None
    picked: list[Dim | None] = [shape[axis] for axis in shape_range(node, len(shape))]
    return boxed(picked, (len(picked),))


def _size_numbers(node: Node) -> Elements | None:
    shape = node.shape(0)
    return None if shape is None else boxed([dims.product(shape)], ())


def _marked_shape(node: Node) -> Shapes:
    shape, depth = node.shape(0), node.input(1)
    if shape is None or depth is None:
        return [None]
    length = _scalar(depth)
    axis = node.attribute("axis", -1) % (len(shape) + 1)
    return [(*shape[:axis], named(length, node, axis), *shape[axis:])]


def _nonzero_shape(node: Node) -> Shapes:
    """All positions of a value that is filled with one number other than zero, as TorchScript counts them."""
    shape, value = node.shape(0), node.inputs[0]
    fill = None if value is None else value.producer
    number = None if fill is None or not is_a(fill, "ConstantOfShape") else fill.attribute("value")
    if shape is None or number is None or not numpy_helper.to_array(number).all():
        return [None]
    return [(len(shape), dims.product(shape))]


def _range_shape(node: Node) -> Shapes:
    """A range with step 1 is as long as its limits are apart; one between numbers has a number of elements."""
    bounds = [None if value is None else value.literal() for value in node.inputs]
    numbers = [float(bound.reshape(-1)[0]) for bound in bounds if bound is not None and bound.size == 1]
    if len(numbers) == 3 and numbers[2] and all(map(math.isfinite, numbers)):
        return [(max(0, math.ceil((numbers[1] - numbers[0]) / numbers[2])),)]
    start, limit, step = (_scalar(value) for value in node.inputs)
    if start is None or limit is None or step != 1:
        return [(dims.symbol(f"{node.out.name}.0"),)]
    return [(dims.subtract(limit, start),)]


def _scalar(value: Value | None) -> Dim | None:
    if value is None or value.elements is None or value.elements.size != 1:
        return None
    element: Dim | None = value.elements.reshape(-1)[0]
    return element


def _marks(node: Node) -> Notation | None:
    """Every number is marked by itself, along an axis of its own, which stays as long as it is."""
    shape = node.shape(0)
    if shape is None:
        return None
    letters, own = numbered(len(shape)), node.attribute("axis", -1) % (len(shape) + 1)
    return Notation(((0, letters),), (*letters[:own], "mark", *letters[own:]), whole=frozenset(("mark",)))


def _range_rule(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """The first few of known numbers: the range ends earlier."""
    elements = node.out.elements
    if elements is None or not all(isinstance(item, int) for item in elements):
        return unknown_shape(node)
    count, whole = lives[0].extent(0)
    if not np.array_equal(lives[0].mask, np.arange(whole) < count) or whole < 2:
        return inexpressible(node)
    end = int(elements[0]) + count * int(elements[1] - elements[0])
    dtype = np.dtype({6: "int32"}.get(node.out.elem_type, "int64"))

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        name = f"{node.out.name}/{MARK}_end"
        return [AddConstant(node.scope.ref, name, (end,), True, str(dtype)), SetInput(node.ref, 1, name)]

    return Answer({}, rewrite)


operator("Shape", shape=_shape_shape, elements=_shape_numbers)
operator("Size", elements=_size_numbers)
operator("Range", shape=_range_shape, rule=_range_rule)
operator("OneHot", axes=_marks, shape=_marked_shape)
operator("NonZero", shape=_nonzero_shape)
