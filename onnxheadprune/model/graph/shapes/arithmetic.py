"""Shapes of element-wise operators, contractions, convolutions and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Shape, Symbolic
from onnxheadprune.model.graph.equations import einsum_terms
from onnxheadprune.model.graph.shapes.common import broadcast, broadcast_dim
from onnxheadprune.model.graph.view import Node

Shapes: TypeAlias = Sequence[Shape | None]


def elementwise(node: Node) -> Shapes:
    return [broadcast([None if value is None else value.shape for value in node.inputs])]


def same(node: Node) -> Shapes:
    return [node.shape(0)]


def agree(node: Node, left_axis: int, right_axis: int) -> None:
    """The contracted dimensions of two operands are equal: a known one tells the other."""
    left, right = node.inputs[0], node.inputs[1]
    if left is None or right is None or not left.shape or not right.shape:
        return
    for known, other, axis, mine in (
        (left, right, right_axis, left_axis),
        (right, left, left_axis, right_axis),
    ):
        assert known.shape is not None and other.shape is not None
        dim = known.shape[mine]
        if isinstance(dim, int) and isinstance(other.shape[axis], Symbolic):
            at = axis % len(other.shape)
            other.shape = (*other.shape[:at], dim, *other.shape[at + 1 :])


def matmul(node: Node) -> Shapes:
    if node.shape(0) and node.shape(1):
        agree(node, -1, -1 if len(node.shape(1) or ()) == 1 else -2)
    left, right = node.shape(0), node.shape(1)
    if left is None or right is None or not left or not right:
        return [None]
    rows = left[-2:-1] if len(left) > 1 else ()
    columns = right[-1:] if len(right) > 1 else ()
    batch = broadcast([left[:-2], right[:-2]])
    return [None if batch is None else (*batch, *rows, *columns)]


def gemm(node: Node) -> Shapes:
    if len(node.shape(0) or ()) == len(node.shape(1) or ()) == 2:
        agree(node, 0 if node.attribute("transA", 0) else 1, 1 if node.attribute("transB", 0) else 0)
    left, right = node.shape(0), node.shape(1)
    if left is None or right is None or len(left) != 2 or len(right) != 2:
        return [None]
    rows = left[1] if node.attribute("transA", 0) else left[0]
    return [(rows, right[0] if node.attribute("transB", 0) else right[1])]


def quantized_matmul(node: Node) -> Shapes:
    left, right = node.shape(0), node.shape(3)
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        return [None]
    batch = broadcast([left[:-2], right[:-2]])
    return [None if batch is None else (*batch, left[-2], right[-1])]


def einsum(node: Node) -> Shapes:
    terms = einsum_terms(node)
    if terms is None:
        return [None]
    *inputs, output = terms
    sizes: dict[str, Dim] = {}
    for index, term in enumerate(inputs):
        shape = node.shape(index)
        if shape is None or len(shape) != len(term):
            return [None]
        for letter, dim in zip(term, shape, strict=True):
            sizes[letter] = broadcast_dim(sizes.get(letter, 1), dim)
    return [tuple(sizes[letter] for letter in output)]


def conv(node: Node) -> Shapes:
    data, weight = node.shape(0), node.shape(3 if node.op_type == "QLinearConv" else 1)
    if data is None or weight is None:
        return [None]
    kernel = [size for size in weight[2:] if isinstance(size, int)]
    if len(kernel) != len(weight) - 2 or len(kernel) != len(data) - 2:
        return [None]
    return [(data[0], weight[0], *_windows(node, data, kernel))]


def conv_transpose(node: Node) -> Shapes:
    """Known where nothing is spread out; what strides and pads make of it, onnx infers for sizes that are numbers."""
    data, weight = node.shape(0), node.shape(1)
    plain = all(size == 1 for size in (weight or ())[2:]) and not any(node.attribute("pads", [0]))
    plain = (
        plain and not any(node.attribute("output_padding", [0])) and node.attribute("output_shape") is None
    )
    spread = any(step != 1 for step in node.attribute("strides", [1]))
    if data is None or weight is None or not plain or spread:
        return [None]
    return [(data[0], dims.multiply(weight[1], node.attribute("group", 1)), *data[2:])]


def grid_sample(node: Node) -> Shapes:
    """A value of each channel at every place of the grid."""
    data, grid = node.shape(0), node.shape(1)
    return [None if data is None or grid is None else (*data[:2], *grid[1:-1])]


def pool(node: Node) -> Shapes:
    """Windows over the spatial axes, counted as a convolution counts them (or, with `ceil_mode`, rounded up)."""
    data, kernel = node.shape(0), node.attribute("kernel_shape")
    if data is None or kernel is None or len(data) != len(kernel) + 2 or node.attribute("ceil_mode", 0):
        return [None]
    return [(data[0], data[1], *_windows(node, data, kernel))]


def global_pool(node: Node) -> Shapes:
    data = node.shape(0)
    return [None if data is None else (*data[:2], *(1 for _ in data[2:]))]


def _windows(node: Node, data: Shape, kernel: Sequence[int]) -> list[Dim]:
    count = len(kernel)
    ones, zeros = [1] * count, [0] * count
    strides, dilations = node.attribute("strides", ones), node.attribute("dilations", ones)
    pads = node.attribute("pads", zeros + zeros)
    same = str(node.attribute("auto_pad", "NOTSET")).startswith("SAME")
    spatial: list[Dim] = []
    for axis in range(count):
        dim = data[axis + 2]
        window = dilations[axis] * (kernel[axis] - 1)
        padded = dim if same else dims.add(dim, pads[axis] + pads[axis + count] - window)
        if same:
            spatial.append(dims.floor_divide(dims.add(dim, strides[axis] - 1), strides[axis]))
        else:
            spatial.append(dims.add(dims.floor_divide(dims.subtract(padded, 1), strides[axis]), 1))
    return spatial


def attention(node: Node) -> Shapes:
    query, value = node.shape(0), node.shape(2)
    if query is None or value is None:
        return [None]
    if len(query) == 4:
        return [(*query[:3], value[3])]
    heads, kv = node.attribute("q_num_heads", 0), node.attribute("kv_num_heads", 0)
    size = dims.divide(value[2], kv) if kv else None
    return [None if size is None else (query[0], query[1], dims.multiply(size, heads))]


def linear_attention(node: Node) -> Shapes:
    """Contexts, and the state of each KV head."""
    query, value = node.shape(0), node.shape(2)
    heads, kv = node.attribute("q_num_heads", 0), node.attribute("kv_num_heads", 0)
    if query is None or value is None or not heads or not kv:
        return [None]
    size, v_size = dims.divide(query[2], heads), dims.divide(value[2], kv)
    if size is None or v_size is None:
        return [None]
    state = (*(node.shape(3) or (query[0], kv, size, v_size)),)
    return [(query[0], query[1], dims.multiply(v_size, max(heads, kv))), state][: len(node.outputs)]


def reduce(node: Node) -> Shapes:
    shape = node.shape(0)
    if shape is None:
        return [None]
    axes = node.int_list("axes", 1)
    if axes is None and node.input(1) is not None:
        return [None]
    if not axes:
        axes = [] if node.attribute("noop_with_empty_axes", 0) else list(range(len(shape)))
    reduced = {axis % len(shape) for axis in axes}
    if node.attribute("keepdims", 1):
        return [tuple(1 if axis in reduced else dim for axis, dim in enumerate(shape))]
    return [tuple(dim for axis, dim in enumerate(shape) if axis not in reduced)]
