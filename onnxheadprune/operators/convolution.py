"""Convolutions and other per-channel operators: axis 1 is the channel axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxheadprune.edit.edits import Edit, SetAttribute
from onnxheadprune.liveness.contraction import CONVOLUTIONS, is_pointwise
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, inexpressible, rule, unknown_shape
from onnxheadprune.model.graph.view import Node


@rule("Conv", "ConvInteger", "QLinearConv")
def conv(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Output channels are rows of the weight; with groups, each group also reads its own input channels."""
    index, along = CONVOLUTIONS[(node.domain, node.op_type)]
    live, weight, data = lives[0], node.shape(index), node.shape(0)
    if weight is None or data is None or not isinstance(weight[0], int) or not isinstance(weight[1], int):
        return unknown_shape(node)
    spatial = [axis for axis in live.axes if axis > 1]
    if spatial and not is_pointwise(node):
        return inexpressible(node)
    groups = node.attribute("group", 1)
    channels = live.only([1])
    if groups > 1 and len(live.axes) > 1 and 1 in live.axes:
        return inexpressible(node)
    weights = channels.renumbered({1: 0}) if channels.axes else channels
    whole = live.only([axis for axis in live.axes if axis != 1])
    # A scale or zero point may also be a single number for all channels.
    stored = {index: weights} | {i: weights for i in along if (node.shape(i) or (1,))[0] != 1}
    if weight[0] == 1:
        stored = {index: weights}
    if groups == 1 or not channels.axes:
        return Answer({0: whole, **stored})
    per_group = channels.array.reshape(groups, weight[0] // groups)
    grouped = Live.over((0, 1), per_group)
    shape = grouped.dense_shape()
    if shape is None:
        return inexpressible(node)
    alive = grouped.only([0])
    inputs = FULL
    if alive.axes:
        inputs = Live.over((1,), alive.array.repeat(weight[1]))
    kept_groups = alive.extent(0)[0] if alive.axes else groups

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        return [SetAttribute(node.ref, "group", kept_groups)] if kept_groups != groups else []

    return Answer({0: inputs, **stored}, rewrite)


@rule("ConvTranspose")
def conv_transpose(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Output channels are columns of the weight."""
    live, weight, data = lives[0], node.shape(1), node.shape(0)
    if weight is None or data is None:
        return unknown_shape(node)
    if any(axis > 1 for axis in live.axes) and not is_pointwise(node):
        return inexpressible(node)
    channels = live.only([1])
    if node.attribute("group", 1) != 1 and channels.axes:
        return inexpressible(node)
    bias = channels.renumbered({1: 0}) if channels.axes else channels
    return Answer({0: live.only([axis for axis in live.axes if axis != 1]), 1: channels, 2: bias})


@rule("FusedConv", domain="com.microsoft")
def fused_conv(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """A Conv with an activation; its optional fourth input is added to the output."""
    answer = conv(node, lives)
    if isinstance(answer, Refusal) or node.input(3) is None:
        return answer
    return Answer({**answer.inputs, 3: lives[0]}, answer.rewrite)


@rule("BatchNormalization")
def batch_normalization(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """At inference an affine map per channel: four vectors along axis 1."""
    channels = lives[0].only([1])
    vector = channels.renumbered({1: 0}) if channels.axes else channels
    return Answer({0: lives[0], 1: vector, 2: vector, 3: vector, 4: vector})


@rule("GridSample")
def grid_sample(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Each picture of a batch is sampled on a grid of its own, each channel alike."""
    live = lives[0]
    if any(axis > 1 for axis in live.axes):
        return inexpressible(node)
    return Answer({0: live, 1: live.only([0])})
