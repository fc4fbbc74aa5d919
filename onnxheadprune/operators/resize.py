"""Pad, Resize and GridSample: some axes are padded or interpolated, all others run in parallel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxheadprune.edit.edits import Edit
from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.index_notation import Notation, beside, numbered
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Refusal, inexpressible, unknown_shape
from onnxheadprune.liveness.target_shapes import target_literals
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.operator import Roles, Shapes
from onnxheadprune.model.graph.view import Node, named
from onnxheadprune.operators.record import operator


def _pad_shape(node: Node) -> Shapes:
    shape, amounts = node.shape(0), _pad_amounts(node)
    if shape is None or amounts is None:
        return [None]
    padded = []
    for axis, (dim, (before, after)) in enumerate(zip(shape, amounts, strict=True)):
        known = before is not None and after is not None
        padded.append(dims.add(dim, dims.add(before, after)) if known else named(None, node, axis))
    return [tuple(padded)]


def _pad(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Exact where the live axis is not padded; what a later Slice asks for of a padded one stays whole."""
    if node.shape(0) is None:
        return unknown_shape(node)
    amounts = _pad_amounts(node)
    padded = [axis for axis, around in enumerate(amounts or ()) if around != (0, 0)]
    live = None if amounts is None else beside(lives[0], padded)
    return inexpressible(node) if live is None else Answer({0: live}, kept=(live,))


def _pad_amounts(node: Node) -> list[tuple[Any, Any]] | None:
    """The padding before and after each axis, None where it is computed."""
    shape, pads = node.shape(0), node.input(1)
    listed = node.attribute("pads")
    if listed is None and pads is not None and pads.elements is not None:
        listed = list(pads.elements.reshape(-1))
    axes = node.literal(3)
    if shape is None or listed is None or (axes is None and node.input(3) is not None):
        return None
    padded = range(len(shape)) if axes is None else [int(axis) % len(shape) for axis in axes.reshape(-1)]
    if len(listed) != 2 * len(padded):
        return None
    amounts: list[tuple[Any, Any]] = [(0, 0)] * len(shape)
    for place, axis in enumerate(padded):
        amounts[axis] = (listed[place], listed[place + len(padded)])
    return amounts


def _grid_sample(node: Node) -> Notation | None:
    """A value of each channel at every place of the grid; each picture of a batch has a grid of its own."""
    data, grid = node.shape(0), node.shape(1)
    if data is None or grid is None:
        return None
    places = numbered(len(grid) - 2)
    return Notation(
        ((0, ("n", "c", *(None for _ in data[2:]))), (1, ("n", *places, None))), ("n", "c", *places)
    )


SCALES, SIZES = 2, 3


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


operator("Pad", roles=Roles(places=(1, 3)), shape=_pad_shape, rule=_pad)
operator("GridSample", roles=Roles(contents=(0,)), axes=_grid_sample)
operator("Resize", shape=_resize_shape, rule=_resize)
