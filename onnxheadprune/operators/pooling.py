"""Pooling of positions: linear, and every channel by itself."""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, inexpressible, rule
from onnxheadprune.model.graph.view import Node


@rule("AveragePool", "GlobalAveragePool")
def average_pool(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Batch and channels (axes 0 and 1) run in parallel; what lies behind them is mixed."""
    live = lives[0]
    return inexpressible(node) if any(axis > 1 for axis in live.axes) else Answer({0: live})
