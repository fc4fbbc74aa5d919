"""Resize and GridSample: positions are interpolated along the resized axes, all others run in parallel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxheadprune.edit.edits import Edit
from onnxheadprune.liveness.literals import target_literals
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, inexpressible, rule, unknown_shape
from onnxheadprune.model.graph.broadcasting import named
from onnxheadprune.model.graph.tables import Roles, Shapes, declare, shape_function
from onnxheadprune.model.graph.view import Node

declare("GridSample", roles=Roles(contents=(0,)))


@shape_function("GridSample")
def _grid_sample_shape(node: Node) -> Shapes:
    """A value of each channel at every place of the grid."""
    data, grid = node.shape(0), node.shape(1)
    return [None if data is None or grid is None else (*data[:2], *grid[1:-1])]


@rule("GridSample")
def _grid_sample(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Each picture of a batch is sampled on a grid of its own, each channel alike."""
    live = lives[0]
    if any(axis > 1 for axis in live.axes):
        return inexpressible(node)
    return Answer({0: live, 1: live.only([0])})


SCALES, SIZES = 2, 3


@shape_function("Resize")
def _resize_shape(node: Node) -> Shapes:
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


@rule("Resize")
def _resize(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """An axis that keeps its size is no interpolation at all: a table of positions, one channel for each head."""
    live, shape, out_shape = lives[0], node.shape(0), node.out.shape
    if shape is None or out_shape is None or node.opset < 11:
        return unknown_shape(node)
    if (
        node.attribute("axes") is not None
        or node.attribute("coordinate_transformation_mode") == "tf_crop_and_resize"
    ):
        return inexpressible(node)
    if node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        return inexpressible(node)
    scales = node.literal(SCALES) if node.input(SIZES) is None else None
    for axis in live.axes:
        scaled = scales is None or scales.reshape(-1)[axis] != 1
        if shape[axis] != out_shape[axis] or (node.input(SIZES) is None and scaled):
            return inexpressible(node)

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        return [] if node.input(SIZES) is None else target_literals(node, SIZES, live)

    return Answer({0: live}, rewrite)
