"""Shape and Size: what a tensor measures."""

from __future__ import annotations

from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Shape
from onnxheadprune.model.graph.elements import Elements, boxed, shape_range
from onnxheadprune.model.graph.facts import SHOWS_SHAPE, SHOWS_SIZE
from onnxheadprune.model.graph.tables import Shapes, declare, number_function, shape_function
from onnxheadprune.model.graph.view import Node

declare("Shape", kinds=(SHOWS_SHAPE,))
declare("Size", kinds=(SHOWS_SIZE,))


@shape_function("Shape")
def _shape_shape(node: Node) -> Shapes:
    shape = node.shape(0)
    return [None if shape is None else (len(shape_range(node, len(shape))),)]


@number_function("Shape")
def _shape_numbers(node: Node) -> Elements | None:
    shape: Shape | None = node.shape(0)
    if shape is None:
        return None
    picked: list[Dim | None] = [shape[axis] for axis in shape_range(node, len(shape))]
    return boxed(picked, (len(picked),))


@number_function("Size")
def _size_numbers(node: Node) -> Elements | None:
    shape = node.shape(0)
    return None if shape is None else boxed([dims.product(shape)], ())
