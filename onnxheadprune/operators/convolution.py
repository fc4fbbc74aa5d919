"""Convolutions and pooling: axis 1 is the channel axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnxheadprune.edit.edits import Edit, SetAttribute
from onnxheadprune.liveness.contraction import CONVOLUTIONS, PRODUCTS, Contraction, Kernel, Product
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusals import Refusal, inexpressible, unknown_shape
from onnxheadprune.liveness.registry import Answer, beside, rule
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Shape
from onnxheadprune.model.graph.facts import (
    ACTIVATES_PRODUCTS,
    POOLS,
    ROUNDS_ACTIVATIONS,
    SUMS_INTEGERS,
    SUMS_PRODUCTS,
)
from onnxheadprune.model.graph.tables import Roles, Shapes, cost_function, declare, shape_function, size_of
from onnxheadprune.model.graph.view import Node

declare("Conv", "ConvTranspose", kinds=(SUMS_PRODUCTS,), roles=Roles(bias=2))
declare(
    "ConvInteger",
    kinds=(SUMS_PRODUCTS, SUMS_INTEGERS),
    roles=Roles(zero_points={0: 2}, weight_zero=3, integer_weight=1),
)
declare(
    "QLinearConv",
    kinds=(ROUNDS_ACTIVATIONS,),
    roles=Roles(
        zero_points={0: 2},
        scales=(1, 4),
        weight_scale=4,
        weight_zero=5,
        integer_weight=3,
        output_scale=6,
        output_zero=7,
        integer_bias=8,
    ),
)
declare("MaxPool", "AveragePool", "LpPool", kinds=(POOLS,))
declare("FusedConv", domain="com.microsoft", kinds=(ACTIVATES_PRODUCTS,), roles=Roles(alike=(0, 1, 2)))


@shape_function("Conv", "ConvInteger", "QLinearConv")
@shape_function("FusedConv", domain="com.microsoft")
def _conv_shape(node: Node) -> Shapes:
    data, weight = node.shape(0), node.shape(3 if node.op_type == "QLinearConv" else 1)
    if data is None or weight is None:
        return [None]
    kernel = [size for size in weight[2:] if isinstance(size, int)]
    if len(kernel) != len(weight) - 2 or len(kernel) != len(data) - 2:
        return [None]
    spatial = _windows(node, data, kernel)
    return [None if spatial is None else (data[0], weight[0], *spatial)]


@shape_function("ConvTranspose")
def _transposed_shape(node: Node) -> Shapes:
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


def _windows(node: Node, data: Shape, kernel: Sequence[int]) -> list[Dim] | None:
    """Sizes of the spatial axes after a window moved over them; None where rounding up depends on a symbolic size."""
    count = len(kernel)
    ones, zeros = [1] * count, [0] * count
    strides, dilations = node.attribute("strides", ones), node.attribute("dilations", ones)
    pads = node.attribute("pads", zeros + zeros)
    same = str(node.attribute("auto_pad", "NOTSET")).startswith("SAME")
    up = node.attribute("ceil_mode", 0)
    spatial: list[Dim] = []
    for axis in range(count):
        dim, stride = data[axis + 2], strides[axis]
        window = dilations[axis] * (kernel[axis] - 1)
        padded = dim if same else dims.add(dim, pads[axis] + pads[axis + count] - window)
        if same:
            spatial.append(dims.floor_divide(dims.add(dim, stride - 1), stride))
        elif not up or stride == 1:
            spatial.append(dims.add(dims.floor_divide(dims.subtract(padded, 1), stride), 1))
        elif isinstance(dim, int) and isinstance(padded, int):
            # A last window that would start after the data, in its padding, is left out.
            spatial.append(min(-(-(padded - 1) // stride), (dim + pads[axis] - 1) // stride) + 1)
        else:
            return None
    return spatial


@cost_function("Conv", "ConvTranspose", "ConvInteger", "QLinearConv")
@cost_function("FusedConv", domain="com.microsoft")
def _convolution_cost(node: Node) -> int | None:
    """One tap per input of a group: the weight is `[out, in / group, ...]`, or `[in, out / group, ...]` transposed."""
    kernel = node.shape(_kernel(node).weight)
    places = size_of(node.shape(0) if node.op_type == "ConvTranspose" else node.out.shape)
    if kernel is None or size_of(kernel) is None or places is None:
        return None
    return 2 * places * (size_of(kernel[1:]) or 0)


@rule("Conv", "ConvInteger", "QLinearConv")
def _conv(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Output channels are rows of the weight; with groups, each group also reads its own input channels."""
    index, along = _kernel(node)
    weight, data = node.shape(index), node.shape(0)
    if weight is None or data is None or not isinstance(weight[0], int) or not isinstance(weight[1], int):
        return unknown_shape(node)
    live = lives[0] if _is_pointwise(node) else _of_all_windows(lives[0])
    if live is None:
        return inexpressible(node)
    groups = node.attribute("group", 1)
    channels = live.only([1])
    depthwise = groups == weight[0] and weight[1] == 1
    if groups > 1 and len(live.axes) > 1 and 1 in live.axes and not depthwise:
        return inexpressible(node)
    weights = channels.renumbered({1: 0}) if channels.axes else channels
    whole = live.only([axis for axis in live.axes if axis != 1])
    # A scale or zero point may also be a single number for all channels.
    stored = {index: weights} | {i: weights for i in along if (node.shape(i) or (1,))[0] != 1}
    if weight[0] == 1:
        stored = {index: weights}
    if groups == 1 or not channels.axes:
        return Answer({0: whole, **stored}, kept=(live,))
    per_group = channels.array.reshape(groups, weight[0] // groups)
    grouped = Live.over((0, 1), per_group)
    shape = grouped.dense_shape()
    if shape is None:
        return inexpressible(node)
    alive = grouped.only([0])
    inputs = FULL
    if alive.axes:
        # Each channel of a depthwise convolution is made of itself alone, also where samples (or folded heads) differ.
        inputs = live if depthwise else Live.over((1,), alive.array.repeat(weight[1]))
    kept_groups = alive.extent(0)[0] if alive.axes else groups

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        return [SetAttribute(node.ref, "group", kept_groups)] if kept_groups != groups else []

    return Answer({0: inputs, **stored}, rewrite, kept=(live,))


def _of_all_windows(live: Live) -> Live | None:
    """Return the live set with all windows, or None where no other axis is narrowed: a Slice may drop windows."""
    return beside(live, [axis for axis in live.axes if axis > 1])


@rule("ConvTranspose")
def _conv_transpose(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Output channels are columns of the weight."""
    weight, data = node.shape(1), node.shape(0)
    if weight is None or data is None:
        return unknown_shape(node)
    live = lives[0] if _is_pointwise(node) else _of_all_windows(lives[0])
    if live is None:
        return inexpressible(node)
    channels = live.only([1])
    if node.attribute("group", 1) != 1 and channels.axes:
        return inexpressible(node)
    bias = channels.renumbered({1: 0}) if channels.axes else channels
    whole = live.only([axis for axis in live.axes if axis != 1])
    return Answer({0: whole, 1: channels, 2: bias}, kept=(live,))


@rule("FusedConv", domain="com.microsoft")
def _fused_conv(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """A Conv with an activation; its optional fourth input is added to the output."""
    answer = _conv(node, lives)
    if isinstance(answer, Refusal) or node.input(3) is None:
        return answer
    return replace(answer, inputs={**answer.inputs, 3: (answer.kept or lives)[0]})


def _letters(node: Node) -> Contraction | None:
    index, columns = _kernel(node)
    data, weight = node.shape(0), node.shape(index)
    if data is None or weight is None or node.attribute("group", 1) != 1:
        return None
    spatial = range(len(data) - 2)
    pointwise = _is_pointwise(node)
    left: list[str | None] = ["n", "k", *(f"s{i}" if pointwise else f"in{i}" for i in spatial)]
    rows = ("k", "m") if node.op_type == "ConvTranspose" else ("m", "k")
    right: list[str | None] = [*rows, *(None for _ in spatial)]
    out = ["n", "m", *(f"s{i}" if pointwise else f"out{i}" for i in spatial)]
    return Contraction(((0, tuple(left)), (index, tuple(right))), tuple(out), columns)


def _is_pointwise(node: Node) -> bool:
    """Return whether a convolution has kernel 1, stride 1 and no padding."""
    weight = node.shape(_kernel(node).weight)
    ones: Sequence[int] = node.attribute("strides", [1])
    pads: Sequence[int] = node.attribute("pads", [0])
    same = node.attribute("auto_pad", "NOTSET") in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    return (
        weight is not None
        and all(size == 1 for size in weight[2:])
        and all(step == 1 for step in ones)
        and not any(pads)
        and not any(node.attribute("output_padding", [0]))
        and node.attribute("output_shape") is None
        and same
    )


def _kernel(node: Node) -> Kernel:
    """The position of a convolution's weight among its inputs."""
    return CONVOLUTIONS[node.domain, node.op_type]


for _op_type, _domain, _weight, _along in (
    ("Conv", "", 1, (2,)),
    ("FusedConv", "com.microsoft", 1, (2,)),
    ("ConvInteger", "", 1, (3,)),
    ("QLinearConv", "", 3, (4, 5, 8)),
    ("ConvTranspose", "", 1, (2,)),
):
    CONVOLUTIONS.add((_op_type,), _domain, Kernel(_weight, _along))
    PRODUCTS.add((_op_type,), _domain, Product(_letters, _weight))


@shape_function("MaxPool", "AveragePool", "LpPool")
def _pool_shape(node: Node) -> Shapes:
    """Windows over the spatial axes, counted as a convolution counts them (or, with `ceil_mode`, rounded up)."""
    data, kernel = node.shape(0), node.attribute("kernel_shape")
    if data is None or kernel is None or len(data) != len(kernel) + 2:
        return [None]
    spatial = _windows(node, data, kernel)
    return [None if spatial is None else (data[0], data[1], *spatial)]


@shape_function("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _global_shape(node: Node) -> Shapes:
    data = node.shape(0)
    return [None if data is None else (*data[:2], *(1 for _ in data[2:]))]


@rule("AveragePool", "GlobalAveragePool")
def _average_pool(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Batch and channels (axes 0 and 1) run in parallel; what lies after them is mixed."""
    live = _of_all_windows(lives[0])
    return inexpressible(node) if live is None else Answer({0: live}, kept=(live,))
