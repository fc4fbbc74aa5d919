"""Fused attention operators as cores: their attributes say what a decomposed graph shows in its shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from onnxheadprune.attention.sites.evidence import tokens_of, without_blind
from onnxheadprune.attention.sites.generation import comes_or_goes
from onnxheadprune.liveness.layouts import is_fused, layout_of
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.readers import carrier_outputs
from onnxheadprune.liveness.registry import Reason, Refusal
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


def is_attention_operator(node: Node) -> bool:
    """Return whether the operator is a fused attention by its name, known here or not."""
    return is_fused(node) or node.op_type.endswith("Attention")


def why_unknown(node: Node) -> Refusal | None:
    """Return why the heads of a fused attention cannot be told, None if they can."""
    if not is_fused(node):
        sentence = (
            f"{node.domain or 'ai.onnx'}.{node.op_type} is not supported: where its heads lie is not known"
        )
        return Refusal(Reason.NO_RULE, node.label, node.out.name, sentence)
    if layout_of(node) is not None:
        return None
    if node.bodies:
        sentence = (
            f"a subgraph of {node.op_type} ({', '.join(node.bodies)}) sees all heads at once and may mix them"
        )
        return Refusal(Reason.COUPLED, node.label, node.out.name, sentence)
    unknown = [
        value.name for index in range(3) if (value := node.input(index)) is not None and value.shape is None
    ]
    sentence = f"the shapes that {node.op_type} reads are not known ({', '.join(unknown)})"
    if not unknown:
        sentence = f"the widths that {node.op_type} reads and the head counts in its attributes do not fit each other"
    return Refusal(Reason.UNKNOWN_SHAPE, node.label, node.out.name, sentence)


class FusedHeads(NamedTuple):
    """Labels on the context of a fused node: per head, the axes of heads and of features, and the tokens told apart."""

    heads: tuple[frozenset[int], ...]
    head_axes: tuple[int, ...]
    feature_axes: tuple[int, ...]
    tokens: int


def split_fused(node: Node, output_index: int, live: Live) -> FusedHeads | None:
    """Return what labels on the context of a fused node say, None where its layout is unknown."""
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
