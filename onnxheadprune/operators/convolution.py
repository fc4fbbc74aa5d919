"""Convolutions and pooling: axis 1 is the channel axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from onnxheadprune.edit.edits import Edit, SetAttribute
from onnxheadprune.liveness.answers import Answer, Rule
from onnxheadprune.liveness.index_notation import (
    ONE,
    Notation,
    beside,
    operand_indices,
    same_axes,
    shape_in_letters,
)
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusals import Refusal, inexpressible, unknown_shape
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Shape, size_of
from onnxheadprune.model.graph.operator import (
    ACTIVATES_PRODUCTS,
    CONVOLVES,
    ROUNDS_ACTIVATIONS,
    SUMS_INTEGERS,
    SUMS_PRODUCTS,
    Kind,
    Roles,
    Shapes,
)
from onnxheadprune.model.graph.view import Node, named
from onnxheadprune.operators.record import operator

_ALONG = {"ConvInteger": (3,), "QLinearConv": (4, 5, 8)}
"""Vectors along output channels, where those are others than a bias at input 2."""


def _conv_shape(node: Node) -> Shapes:
    data, weight = node.shape(0), node.shape(operand_indices(node)[1])
    if data is None or weight is None:
        return [None]
    kernel = [size for size in weight[2:] if isinstance(size, int)]
    if len(kernel) != len(weight) - 2 or len(kernel) != len(data) - 2:
        return [None]
    return [(data[0], weight[0], *_windows(node, data, kernel))]


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


def _windows(node: Node, data: Shape, kernel: Sequence[int]) -> list[Dim]:
    """Output sizes of the spatial axes; an unknown one where rounding up depends on a symbolic size.

    Where one is unknown, the others are still ours: shape inference of onnx also counts windows that start in the
    padding behind the data.
    """
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
            spatial.append(named(None, node, axis + 2))
    return spatial


def _convolution_cost(node: Node) -> int | None:
    """One tap per input of a group: the weight is `[out, in / group, ...]`, or `[in, out / group, ...]` transposed."""
    kernel = node.shape(operand_indices(node)[1])
    places = size_of(node.shape(0) if node.op_type == "ConvTranspose" else node.out.shape)
    if kernel is None or size_of(kernel) is None or places is None:
        return None
    return 2 * places * (size_of(kernel[1:]) or 0)


def _conv(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Output channels are rows of the weight; with groups, each group also reads its own input channels."""
    index, along = operand_indices(node)[1], _ALONG.get(node.op_type, (2,))
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
    stored = {index: weights} | {i: weights for i in along if size_of(node.shape(i)) != 1}
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


def _fused_conv(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """A Conv with an activation; its optional fourth input is added to the output."""
    answer = _conv(node, lives)
    if isinstance(answer, Refusal) or node.input(3) is None:
        return answer
    return replace(answer, inputs={**answer.inputs, 3: (answer.kept or lives)[0]})


def _letters(node: Node) -> Notation | None:
    index = operand_indices(node)[1]
    data, weight = node.shape(0), node.shape(index)
    if data is None or weight is None or node.attribute("group", 1) != 1:
        return None
    spatial = range(len(data) - 2)
    pointwise = _is_pointwise(node)
    left: list[str | None] = ["n", "k", *(f"s{i}" if pointwise else f"in{i}" for i in spatial)]
    rows = ("k", "m") if node.op_type == "ConvTranspose" else ("m", "k")
    right: list[str | None] = [*rows, *(None for _ in spatial)]
    out = ["n", "m", *(f"s{i}" if pointwise else f"out{i}" for i in spatial)]
    return Notation(((0, tuple(left)), (index, tuple(right))), tuple(out))


def _is_pointwise(node: Node) -> bool:
    """Return whether a convolution has kernel 1, stride 1 and no padding."""
    weight = node.shape(operand_indices(node)[1])
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


def _pool_shape(node: Node) -> Shapes:
    """Windows over the spatial axes, counted as a convolution counts them (or, with `ceil_mode`, rounded up)."""
    data, kernel = node.shape(0), node.attribute("kernel_shape")
    if data is None or kernel is None or len(data) != len(kernel) + 2:
        return [None]
    return [(data[0], data[1], *_windows(node, data, kernel))]


def _pool(node: Node) -> Notation | None:
    """Batch and channels run in parallel; what lies after them is mixed."""
    return same_axes(node, slice(2, None))


def _global_pool(node: Node) -> Notation | None:
    found = _pool(node)
    return None if found is None else replace(found, out_axes=("a0", "a1", *(ONE for _ in found.mixed)))


def _convolution(name: str, kinds: tuple[Kind, ...], rule: Rule, weight: int = 1, **more: Any) -> None:
    more = {"shape": _conv_shape, **more}
    kinds = (CONVOLVES, *kinds)
    operator(
        name, kinds=kinds, axes=_letters, rule=rule, operands=(0, weight), cost=_convolution_cost, **more
    )


_convolution("Conv", (SUMS_PRODUCTS,), _conv, roles=Roles(bias=2))
_convolution("ConvTranspose", (SUMS_PRODUCTS,), _conv_transpose, roles=Roles(bias=2), shape=_transposed_shape)
_convolution(
    "ConvInteger",
    (SUMS_PRODUCTS, SUMS_INTEGERS),
    _conv,
    roles=Roles(zero_points={0: 2}, weight_zero=3, integer_weight=1),
)
_convolution(
    "QLinearConv",
    (ROUNDS_ACTIVATIONS,),
    _conv,
    weight=3,
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
_convolution("com.microsoft.FusedConv", (ACTIVATES_PRODUCTS,), _fused_conv, roles=Roles(alike=(0, 1, 2)))
operator("AveragePool", axes=_pool, shape=_pool_shape)
operator("MaxPool", "LpPool", shape=_pool_shape)
operator("GlobalAveragePool", axes=_global_pool)
operator("GlobalMaxPool", "GlobalLpPool", shape=partial(shape_in_letters, _global_pool))
