"""Pad: something is put around a tensor."""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, beside, inexpressible, rule, unknown_shape
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.broadcasting import named
from onnxheadprune.model.graph.facts import PADS
from onnxheadprune.model.graph.tables import Roles, Shapes, declare, shape_function
from onnxheadprune.model.graph.view import Node

declare("Pad", kinds=(PADS,), roles=Roles(places=(1, 3)))


@shape_function("Pad")
def _pad_shape(node: Node) -> Shapes:
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


@rule("Pad")
def _pad(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Exact where the live axis is not padded; what a later Slice asks for of a padded one stays whole."""
    shape = node.shape(0)
    if shape is None:
        return unknown_shape(node)
    amounts = _pad_amounts(node, len(shape))
    if amounts is None:
        return inexpressible(node)
    rank = len(shape)
    live = beside(lives[0], [axis for axis in range(rank) if amounts[axis] != 0 or amounts[axis + rank] != 0])
    return inexpressible(node) if live is None else Answer({0: live}, kept=(live,))


def _pad_amounts(node: Node, rank: int) -> list[object] | None:
    listed = node.attribute("pads")
    if listed is not None:
        return list(listed)
    pads = node.inputs[1] if len(node.inputs) > 1 else None
    if pads is None or pads.elements is None or (node.input(3) is not None and node.literal(3) is None):
        return None
    elements = list(pads.elements)
    axes = node.literal(3)
    if axes is None:
        return elements if len(elements) == 2 * rank else None
    amounts: list[object] = [0] * (2 * rank)
    for position, axis in enumerate(axes.reshape(-1)):
        amounts[int(axis) % rank] = elements[position]
        amounts[int(axis) % rank + rank] = elements[position + axes.size]
    return amounts
