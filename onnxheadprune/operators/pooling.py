"""Pooling of positions: linear, and every channel by itself."""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, inexpressible, rule
from onnxheadprune.model.graph.tables import Shapes, shape_function
from onnxheadprune.model.graph.view import Node
from onnxheadprune.operators.convolution import windows


@shape_function("MaxPool", "AveragePool", "LpPool")
def _pool_shape(node: Node) -> Shapes:
    """Windows over the spatial axes, counted as a convolution counts them (or, with `ceil_mode`, rounded up)."""
    data, kernel = node.shape(0), node.attribute("kernel_shape")
    if data is None or kernel is None or len(data) != len(kernel) + 2:
        return [None]
    spatial = windows(node, data, kernel)
    return [None if spatial is None else (data[0], data[1], *spatial)]


@shape_function("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _global_shape(node: Node) -> Shapes:
    data = node.shape(0)
    return [None if data is None else (*data[:2], *(1 for _ in data[2:]))]


@rule("AveragePool", "GlobalAveragePool")
def _average_pool(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Batch and channels (axes 0 and 1) run in parallel; what lies behind them is mixed."""
    live = lives[0]
    return inexpressible(node) if any(axis > 1 for axis in live.axes) else Answer({0: live})
