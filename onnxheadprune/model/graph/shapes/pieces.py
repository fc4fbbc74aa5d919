"""Shapes of operators that cut, join and pick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Shape
from onnxheadprune.model.graph.shapes.common import named, simplicity
from onnxheadprune.model.graph.view import Node

Shapes: TypeAlias = Sequence[Shape | None]


def concat(node: Node) -> Shapes:
    shapes = [value.shape for value in node.inputs if value is not None]
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


def split(node: Node) -> Shapes:
    shape = node.shape(0)
    sizes = node.int_list("split", 1)
    if shape is None or not shape:
        return [None] * len(node.outputs)
    axis = node.attribute("axis", 0) % len(shape)
    if sizes is None:
        count, whole = len(node.outputs), shape[axis]
        if not isinstance(whole, int):
            return [None] * count
        chunk = -(-whole // count)
        sizes = [min(chunk, whole - chunk * index) for index in range(count)]
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]


def slice_of(node: Node) -> Shapes:
    shape = node.shape(0)
    starts, ends = node.int_list("starts", 1), node.int_list("ends", 2)
    if shape is None:
        return [None]
    axes = node.int_list("axes", 3)
    if axes is None and node.input(3) is None:
        axes = list(range(len(starts or ends or ())))
    steps = node.literal(4)
    if axes is None:
        return [None]
    result = list(shape)
    for position, axis in enumerate(axes):
        step = 1 if node.input(4) is None else (None if steps is None else int(steps.reshape(-1)[position]))
        start = None if starts is None else starts[position]
        end = None if ends is None else ends[position]
        result[axis % len(shape)] = sliced(
            node, shape[axis % len(shape)], axis % len(shape), start, end, step
        )
    return [tuple(result)]


def sliced(node: Node, dim: Dim, axis: int, start: int | None, end: int | None, step: int | None) -> Dim:
    if isinstance(dim, int) and None not in (start, end, step):
        stop = None if step is not None and step < 0 and end is not None and end < -dim else end
        return len(range(dim)[start:stop:step])
    if start is not None and end is not None and step == 1:
        if start == 0 and end >= 2**31 - 1:
            return dim
        if end >= 2**31 - 1:
            return dims.subtract(dim, start) if start >= 0 else -start
        if start >= 0 and end < 0:
            return dims.subtract(dims.add(dim, end), start)
    return dims.symbol(f"{node.out.name}.{axis}")


def pad(node: Node) -> Shapes:
    shape, pads = node.shape(0), node.input(1)
    if shape is None or pads is None or pads.elements is None or node.input(3) is not None:
        return [None]
    amounts = pads.elements.reshape(-1)
    if amounts.size != 2 * len(shape):
        return [None]
    padded = []
    for axis, dim in enumerate(shape):
        before, after = amounts[axis], amounts[axis + len(shape)]
        known = before is not None and after is not None
        padded.append(dims.add(dim, dims.add(before, after)) if known else named(None, node, axis))
    return [tuple(padded)]


def top_k(node: Node) -> Shapes:
    """Values and indices, as many as are asked for along one axis."""
    shape, wanted = node.shape(0), node.input(1)
    if not shape:
        return [None, None]
    counted = None if wanted is None or wanted.elements is None else wanted.elements.reshape(-1)
    count: Dim | None = node.attribute("k") if counted is None or counted.size != 1 else counted[0]
    axis = node.attribute("axis", -1) % len(shape)
    return [(*shape[:axis], named(count, node, axis), *shape[axis + 1 :])] * 2


def gather(node: Node) -> Shapes:
    data, indices = node.shape(0), node.shape(1)
    if data is None or indices is None or not data:
        return [None]
    axis = node.attribute("axis", 0) % len(data)
    return [(*data[:axis], *indices, *data[axis + 1 :])]


def gather_elements(node: Node) -> Shapes:
    return [node.shape(1)]


def gather_nd(node: Node) -> Shapes:
    data, indices = node.shape(0), node.shape(1)
    if data is None or indices is None or not isinstance(indices[-1], int):
        return [None]
    return [(*indices[:-1], *data[node.attribute("batch_dims", 0) + indices[-1] :])]


def split_to_sequence(node: Node) -> Shapes:
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


def sequence_at(node: Node) -> Shapes:
    shape = node.shape(0)
    return [None if shape is None else shape[1:]]
