"""Fused attention operators as cores: their attributes say what a decomposed graph shows in its shapes."""

from __future__ import annotations

from dataclasses import dataclass

from onnxheadprune.attention.sites.generation import comes_or_goes
from onnxheadprune.liveness.layouts import layout_of
from onnxheadprune.liveness.readers import carrier_outputs
from onnxheadprune.model.graph.view import Node, Value


@dataclass(frozen=True)
class FusedAnatomy:
    """The heads, sizes and caches that a fused node's attributes and inputs show.

    Attributes:
        groups: query heads per KV head.
        head_size: width of a query or key head.
        free: cache inputs and outputs of the model.
        value: index of the input that brings one value head per query head, None where there is none.
        memory: indices of the inputs that bring keys, values and their past.
        maps: outputs of the model that are attention maps, one per head.
    """

    groups: tuple[tuple[int, ...], ...]
    head_size: int | None
    free: frozenset[Value]
    value: int | None = None
    memory: tuple[int, ...] = ()
    maps: frozenset[Value] = frozenset()


def fused_anatomy(node: Node) -> FusedAnatomy:
    """Groups, head size and cache of a fused attention node."""
    layout = layout_of(node)
    if layout is None:
        return FusedAnatomy((), None, frozenset())
    groups = tuple(
        tuple(range(first, first + layout.group)) for first in range(0, layout.num_heads, layout.group)
    )
    presents = [value for index in layout.caches if (value := node.outputs[index]) is not None]
    free = {*presents, *(output for value in presents for output in carrier_outputs(value))}
    free |= {
        value
        for index, carrier in layout.inputs.items()
        if index in layout.memory and carrier.runs[0].width == 1 and (value := node.inputs[index]) is not None
    }
    drawn = [value for index in layout.maps if (value := node.outputs[index]) is not None]
    maps = frozenset(
        value
        for made in drawn
        for value in (made, *carrier_outputs(made))
        if value.is_graph_output and value.scope.parent is None
    )
    own = frozenset(value for value in free if comes_or_goes(value))
    values = layout.inputs.get(2)
    repeats = layout.kv_num_heads == layout.num_heads and values is not None and len(values.runs) == 1
    return FusedAnatomy(groups, layout.head_size, own, 2 if repeats else None, layout.memory, maps)
