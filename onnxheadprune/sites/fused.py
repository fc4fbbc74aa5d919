"""Fused attention operators as cores: their attributes say what a decomposed graph shows in its shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from onnxheadprune.graph.view import Node, Value
from onnxheadprune.liveness.fused import is_fused, layout_of
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.observers import carrier_outputs
from onnxheadprune.sites.evidence import tokens_of, without_blind


@dataclass(frozen=True)
class FusedAnatomy:
    """What a fused node's attributes and inputs say.

    Attributes:
        groups: query heads per KV head.
        head_size: width of a query or key head.
        free: cache inputs and outputs of the model.
        value: index of the input that brings one value head per query head, None where there is none.
    """

    groups: tuple[tuple[int, ...], ...]
    head_size: int | None
    free: frozenset[Value]
    value: int | None = None


def is_fused_core(node: Node) -> bool:
    """Whether the node is a fused attention operator."""
    return is_fused(node)


class FusedHeads(NamedTuple):
    """Labels on the context of a fused node: per head, the axes of heads and of features, and the tokens told apart."""

    heads: tuple[frozenset[int], ...]
    head_axes: tuple[int, ...]
    feature_axes: tuple[int, ...]
    tokens: int


def split_fused(node: Node, output_index: int, live: Live) -> FusedHeads | None:
    """What labels on the context of a fused node say, None where its layout is unknown."""
    layout = layout_of(node)
    if layout is None or output_index != 0:
        return None
    # What else the labels differ along are tokens: the operator says where its heads are.
    live = without_blind(live, [axis for axis in live.axes if axis not in layout.out_axes])
    sizes = [layout.num_heads, layout.v_head_size]
    if len(layout.out_axes) == 1:
        sizes = [layout.num_heads * layout.v_head_size]
    axes = sorted({*live.axes, *layout.out_axes})
    known = dict(zip(layout.out_axes, sizes, strict=True))
    array = live.aligned(axes, [known.get(axis, live.period(axis)) for axis in axes])
    places = [axes.index(axis) for axis in layout.out_axes]
    rows = np.moveaxis(array, places, range(len(places))).reshape(layout.num_heads, -1)
    heads = tuple(frozenset(int(label) for label in row if label) for row in rows)
    tokens = tokens_of(live, [axis for axis in live.axes if axis not in layout.out_axes])
    return FusedHeads(heads, layout.out_axes[:1], layout.out_axes[1:], tokens)


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
        for index, (_, parts) in layout.inputs.items()
        if parts[0][1] == 1 and (value := node.inputs[index]) is not None
    }
    own = frozenset(value for value in free if _is_io(value))
    repeats = layout.kv_num_heads == layout.num_heads and len(layout.inputs.get(2, (0, ()))[1]) == 1
    return FusedAnatomy(groups, layout.head_size, own, 2 if repeats else None)


def _is_io(value: Value) -> bool:
    return value.scope.parent is None and (
        value.is_graph_output or (value.is_graph_input and not value.is_initializer)
    )
