"""Fused attention operators: which axis of which input carries which heads.

A decomposed graph shows its heads in shapes; a fused operator states them in attributes. One layout per
operator says where queries, keys and values lie, and liveness and site detection both read that.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from onnxheadprune.model.graph.dims import known_size
from onnxheadprune.model.graph.tables import Table
from onnxheadprune.model.graph.view import Node


class Heads(enum.Enum):
    """The heads along an axis, or counted by something."""

    QUERY = "query"
    KEY_VALUE = "key/value"


@dataclass(frozen=True)
class Run:
    """All heads of one kind, one after the other along an axis.

    Attributes:
        heads: which heads.
        width: how many positions each of them takes.
    """

    heads: Heads
    width: int


@dataclass(frozen=True)
class HeadAxis:
    """An axis that carries heads.

    Attributes:
        axis: its number.
        runs: what lies along it, in order: packed queries, keys and values are three runs.
    """

    axis: int
    runs: tuple[Run, ...]


def queries(axis: int, *widths: int) -> HeadAxis:
    """An axis along which every query head has some positions, in as many runs as there are widths."""
    return HeadAxis(axis, tuple(Run(Heads.QUERY, width) for width in widths))


def key_values(axis: int, width: int) -> HeadAxis:
    """An axis along which every key/value head has some positions."""
    return HeadAxis(axis, (Run(Heads.KEY_VALUE, width),))


@dataclass(frozen=True)
class FusedLayout:
    """The places of the heads of a fused attention node.

    Attributes:
        num_heads, kv_num_heads: query and key/value heads.
        head_size: width of a query or key head, None if the shapes do not tell.
        v_head_size: width of a context head.
        out_axes: the axis or the two axes (heads, head size) of the output.
        inputs: per input index the axis that carries heads.
        caches: output indices of present keys and values, with their head axis.
        attributes: names of attributes that hold counts, and what they count.
        widths: name of the attribute that lists the widths of Q, K and V, if it is set.
        memory: input indices of keys, values and their past.
        maps: output indices of attention maps, one per query head, with their head axis.
    """

    num_heads: int
    kv_num_heads: int
    head_size: int | None
    v_head_size: int
    out_axes: tuple[int, ...]
    inputs: dict[int, HeadAxis]
    caches: dict[int, int]
    attributes: dict[str, Heads]
    widths: str | None = None
    memory: tuple[int, ...] = ()
    maps: dict[int, int] = field(default_factory=dict)

    @property
    def group(self) -> int:
        """Query heads per KV head; neighbours share."""
        return self.num_heads // self.kv_num_heads


Reader: TypeAlias = Callable[[Node], FusedLayout | None]
LAYOUTS: Table[Reader] = Table("layouts")
"""What reads the layout of a fused attention."""
layout_reader = LAYOUTS.register


def layout_of(node: Node) -> FusedLayout | None:
    """The layout of a fused attention node; None for any other node, or where shapes are missing."""
    reader = LAYOUTS.of(node)
    return None if reader is None else reader(node)


def is_fused(node: Node) -> bool:
    """Return whether the operator is a fused attention whose layout is known."""
    return LAYOUTS.of(node) is not None


def given(node: Node, indices: Iterable[int], axis: int) -> dict[int, int]:
    """Those of some outputs that the node has, with their head axis."""
    return {i: axis for i in indices if i < len(node.outputs) and node.outputs[i] is not None}


def per_head(node: Node, index: int, axis: int, heads: int) -> dict[int, HeadAxis]:
    """A bias or mask that has one position per query head on an axis, or a broadcast one (then nothing)."""
    return {index: queries(axis, 1)} if heads > 1 and known_size(node.shape(index), axis) == heads else {}
