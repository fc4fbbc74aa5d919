"""Numbers of experts that a graph stores: how many there are, or all of them in a row, to compare a choice with."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from onnxheadprune.edit.edits import MARK, AddConstant, Edit, SetInput
from onnxheadprune.liveness.live import Live
from onnxheadprune.model.graph.facts import EQUALS, MARKS_NUMBERS
from onnxheadprune.model.graph.view import Node


@dataclass(frozen=True, eq=False)
class Renumbered:
    """A node that turns numbers of experts into an axis of experts, by numbers that are stored.

    Attributes:
        node: the node.
        index: of the input with stored numbers.
        live: labels of its output, as `Scores` has them.
        out: what stands at an expert that is not chosen.
        depth: length of the axis, None where experts are listed.
    """

    node: Node
    index: int
    live: Live
    out: float
    depth: int | None

    def edits(self, left: int, experts: int) -> Iterator[Edit]:
        """Yield the edits that renumber the experts that are left."""
        stored = self.node.literal(self.index)
        assert stored is not None
        name = f"{self.node.out.name}/{MARK}_experts"
        if self.depth is None:
            shape = [left if size > 1 else 1 for size in stored.shape]
            numbers = np.arange(left).reshape(shape)
        else:
            numbers = np.full(stored.shape, self.depth - experts + left)
        yield AddConstant.of(self.node.scope.ref, name, numbers.astype(stored.dtype))
        yield SetInput(self.node.ref, self.index, name)


@dataclass(frozen=True, eq=False)
class Single:
    """A comparison of numbers of experts with the number of one.

    Attributes:
        node: the comparison.
        index: of the input with that number.
        expert: the number.
    """

    node: Node
    index: int
    expert: int

    def edits(self, gone: Collection[int]) -> Iterator[Edit]:
        """Yield the edits for another number of the expert, once those in `gone` are removed."""
        stored = self.node.literal(self.index)
        number = self.expert - sum(other < self.expert for other in gone)
        if stored is None or self.expert in gone or number == self.expert:
            return
        name = f"{self.node.out.name}/{MARK}_expert"
        yield AddConstant.of(self.node.scope.ref, name, np.full_like(stored, number))
        yield SetInput(self.node.ref, self.index, name)


def compared_with_one(node: Node, index: int, experts: int) -> Single | None:
    """A comparison of numbers of experts with the number of one, None for other nodes."""
    stored = node.literal(1 - index) if node in EQUALS else None
    if stored is None or stored.size != 1 or stored.dtype.kind not in "iu":
        return None
    expert = int(stored.reshape(-1)[0])
    return Single(node, 1 - index, expert) if 0 <= expert < experts else None


def one_hot(node: Node, experts: int) -> Renumbered | None:
    """A OneHot of numbers of experts, None for other nodes and where its axis is too short for all of them."""
    shape, depth, values = node.out.shape, node.literal(1), node.literal(2)
    if node not in MARKS_NUMBERS or shape is None or depth is None or values is None:
        return None
    length = int(depth.reshape(-1)[0])
    axis = int(node.attribute("axis", -1)) % len(shape)
    if length < experts or shape[axis] != length:
        return None
    return Renumbered(node, 1, Live.numbered(axis, length), float(values[0]), length)


def compared(node: Node, index: int, experts: int) -> Renumbered | None:
    """A comparison of numbers of experts with all of them in a row, None for other nodes."""
    shape, source = node.out.shape, node.shape(index)
    if node not in EQUALS or shape is None or source is None:
        return None
    listed = node.literal(1 - index)
    if listed is None or listed.dtype.kind not in "iu" or max(listed.shape, default=0) != listed.size:
        return None
    if not np.array_equal(listed.reshape(-1), np.arange(experts)):
        return None
    axis = len(shape) - listed.ndim + listed.shape.index(experts)
    own = axis - (len(shape) - len(source))
    if shape[axis] != experts or (own >= 0 and source[own] != 1):
        return None
    return Renumbered(node, 1 - index, Live.numbered(axis, experts), 0.0, None)
