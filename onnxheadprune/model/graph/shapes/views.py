"""Shapes of view operators and of values made from shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Shape
from onnxheadprune.model.graph.elements import shape_range
from onnxheadprune.model.graph.shapes.common import broadcast, named
from onnxheadprune.model.graph.view import Node, Value

Shapes: TypeAlias = Sequence[Shape | None]


def reshape(node: Node) -> Shapes:
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


def transpose(node: Node) -> Shapes:
    shape = node.shape(0)
    if shape is None:
        return [None]
    order = node.attribute("perm", list(reversed(range(len(shape)))))
    return [tuple(shape[axis] for axis in order)]


def unsqueeze(node: Node) -> Shapes:
    shape, axes = node.shape(0), node.int_list("axes", 1)
    if shape is None or axes is None:
        return [None]
    rank = len(shape) + len(axes)
    inserted = {axis % rank for axis in axes}
    rest = iter(shape)
    return [tuple(1 if axis in inserted else next(rest) for axis in range(rank))]


def squeeze(node: Node) -> Shapes:
    shape, axes = node.shape(0), node.int_list("axes", 1)
    if shape is None or axes is None:
        return [None]
    dropped = {axis % len(shape) for axis in axes}
    return [tuple(dim for axis, dim in enumerate(shape) if axis not in dropped)]


def expand(node: Node) -> Shapes:
    shape, target = node.shape(0), node.input(1)
    if target is None or target.elements is None or target.elements.ndim != 1:
        return [None]
    wanted = tuple(named(item, node, axis) for axis, item in enumerate(target.elements))
    return [broadcast([shape, wanted])]


def constant_of_shape(node: Node) -> Shapes:
    target = node.input(0)
    if target is None or target.elements is None or target.elements.ndim != 1:
        return [None]
    return [tuple(named(item, node, axis) for axis, item in enumerate(target.elements))]


def flatten(node: Node) -> Shapes:
    shape = node.shape(0)
    if shape is None:
        return [None]
    axis = node.attribute("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return [(dims.product(shape[:axis]), dims.product(shape[axis:]))]


def tile(node: Node) -> Shapes:
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


def resize(node: Node) -> Shapes:
    """The sizes that are asked for, or the axes that keep theirs."""
    shape, sizes, scales = node.shape(0), node.input(3), node.literal(2)
    if shape is None or node.opset < 11 or node.attribute("axes") is not None:
        return [None]
    if sizes is not None:
        known = sizes.elements
        stretched = node.attribute("keep_aspect_ratio_policy", "stretch") == "stretch"
        if known is None or known.size != len(shape) or not stretched:
            return [None]
        return [tuple(named(item, node, axis) for axis, item in enumerate(known.reshape(-1)))]
    if scales is None or scales.size != len(shape):
        return [None]
    factors = [float(scale) for scale in scales.reshape(-1)]
    return [
        tuple(
            named(dim if factor == 1 else None, node, axis)
            for axis, (dim, factor) in enumerate(zip(shape, factors, strict=True))
        )
    ]


def range_of(node: Node) -> Shapes:
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


def shape_of(node: Node) -> Shapes:
    shape = node.shape(0)
    return [None if shape is None else (len(shape_range(node, len(shape))),)]
