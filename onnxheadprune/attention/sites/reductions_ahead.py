"""Reductions over a live axis that an unnarrowed consumer leads to."""

from __future__ import annotations

from onnxheadprune.liveness.contraction import contraction_of
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.sweep_result import Sweep
from onnxheadprune.model.graph.facts import ELEMENTWISE, REDUCES
from onnxheadprune.model.graph.reductions import reduced_axes
from onnxheadprune.model.graph.view import Node


def reduction_ahead(node: Node, live: Live, hops: int) -> Node | None:
    """The reduction over a live axis that an unnarrowed consumer leads to, None if it is none within `hops`."""
    if node in REDUCES:
        shape, reduced = node.shape(0), reduced_axes(node)
        if shape is None or reduced is None:
            return None
        if not set(live.axes).isdisjoint(reduced):
            return node
        if not node.attribute("keepdims", 1):
            left = [axis for axis in range(len(shape)) if axis not in reduced]
            live = live.renumbered({axis: left.index(axis) for axis in live.axes})
    elif node not in ELEMENTWISE:
        return None
    if hops == 0:
        return None
    for use in node.out.consumers:
        found = reduction_ahead(use.node, live, hops - 1)
        if found is not None:
            return found
    return None


def returns(node: Node, trial: Sweep, hops: int) -> bool:
    """Return whether the node's result flows into a node that the sweep visited."""
    if hops == 0:
        return False
    for use in node.out.consumers:
        if use.node in trial.answers:
            return True
        if contraction_of(use.node) is None and returns(use.node, trial, hops - 1):
            return True
    return False
