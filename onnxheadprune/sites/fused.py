"""Fused attention operators say in their attributes what a decomposed graph shows in its shapes."""

from __future__ import annotations

from dataclasses import dataclass

from onnxheadprune.graph.view import Node, Value
from onnxheadprune.liveness.live import Live


@dataclass(frozen=True)
class FusedAnatomy:
    """What a fused node's attributes and inputs say.

    Attributes:
        groups: query heads per KV head.
        head_size: width of a query or key head.
        free: cache inputs and outputs.
    """

    groups: tuple[tuple[int, ...], ...]
    head_size: int | None
    free: frozenset[Value]


def is_fused_core(node: Node) -> bool:
    """Whether the node is a fused attention operator."""
    return False


def split_fused(
    node: Node, output_index: int, live: Live
) -> tuple[tuple[frozenset[int], ...], tuple[int, ...], tuple[int, ...]] | None:
    """`(head label sets, head axes, feature axes)` of labels on an output of a fused node."""
    return None


def fused_anatomy(node: Node, num_heads: int) -> FusedAnatomy:
    """Groups, head size and cache of a fused attention node."""
    return FusedAnatomy(tuple((head,) for head in range(num_heads)), None, frozenset())
