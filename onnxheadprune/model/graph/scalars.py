"""Numbers of values that hold one number, or the same number everywhere."""

from __future__ import annotations

import math

from onnx import numpy_helper

from onnxheadprune.model.graph.operator import REREADS, VIEWS, is_a, kind
from onnxheadprune.model.graph.view import MAX_LITERAL_ELEMENTS, Node, Value
from onnxheadprune.model.tensors import FLOATS

MAX_DEPTH = 32


NOTHING_NEW = VIEWS | kind("Flatten", "Expand", "Tile", "Slice", "Gather", "GatherND", "GatherElements")
"""Operators whose result holds nothing that the first input does not."""


_SAME = REREADS | kind("Cast", "Identity", "CastLike")


def scalar_of(value: Value | None, depth: int = MAX_DEPTH) -> float | None:
    """The one number that a value holds, None if it holds several or depends on the inputs."""
    if value is None or depth == 0:
        return None
    literal = value.literal()
    if literal is not None:
        return float(literal.reshape(-1)[0]) if literal.size == 1 and literal.dtype.kind in "fiubV" else None
    node = value.producer
    if node is None or node.domain:
        return None
    if node in _SAME:
        return scalar_of(node.input(0), depth - 1)
    function = node.operator.number
    return (
        None if function is None else function(node, [scalar_of(value, depth - 1) for value in node.inputs])
    )


def uniform(value: Value | None, depth: int = MAX_DEPTH) -> float | None:
    """The number that a value holds everywhere, whatever the inputs are; None if it may hold several."""
    if value is None or depth == 0:
        return None
    if value.tensor is not None:
        return _stored(value)
    node = value.producer
    if node is None or node.domain:
        return None
    if node in NOTHING_NEW:
        return uniform(node.input(0), depth - 1)
    if is_a(node, "Cast"):
        return _cast(node, depth)
    if is_a(node, "ConstantOfShape"):
        fill = node.attribute("value")
        return 0.0 if fill is None else float(numpy_helper.to_array(fill).reshape(-1)[0])
    if is_a(node, "Where"):
        condition = uniform(node.input(0), depth - 1)
        return None if condition is None else uniform(node.input(1 if condition else 2), depth - 1)
    function = node.operator.number
    return None if function is None else function(node, [uniform(item, depth - 1) for item in node.inputs])


def _stored(value: Value) -> float | None:
    tensor = value.tensor
    if tensor is None or math.prod(tensor.dims) > MAX_LITERAL_ELEMENTS:
        return None
    literal = value.literal()
    if literal is None or not literal.size or literal.dtype.kind not in "biuf":
        return None
    first = literal.reshape(-1)[0]
    return float(first) if bool((literal == first).all()) else None


def _cast(node: Node, depth: int) -> float | None:
    """A cast between types of numbers keeps zero, one and infinity, which is all that masks need."""
    inner = uniform(node.input(0), depth - 1)
    if inner is not None and math.isinf(inner):
        return inner if node.attribute("to") in FLOATS else None
    return inner if inner in (0.0, 1.0) else None
