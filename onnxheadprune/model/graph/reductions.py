"""The axes that reductions reduce, however they are written: as an attribute, as an input, negative, or left out."""

from __future__ import annotations

from onnxheadprune.model.graph.view import Node


def reduced_axes(node: Node) -> tuple[int, ...] | None:
    """Return the axes that a reduction reduces, in order, counted from the front; None if they are not known."""
    shape, axes = node.shape(0), node.int_list("axes", 1)
    if shape is None or (axes is None and node.input(1) is not None):
        return None
    if axes:
        return tuple(sorted({axis % len(shape) for axis in axes}))
    return () if node.attribute("noop_with_empty_axes", 0) else tuple(range(len(shape)))
