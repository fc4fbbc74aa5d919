"""Removing whole sites: their projections sum over nothing, so only the biases of these are left.

Such a bias is the same for every token. It is carried forward, together with those that it meets, to where it joins the
residual stream, and added there in the branch's place; everything before is then used by nobody and goes.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import MARK, DropNode, Edit, SetInput
from onnxheadprune.liveness.observers import looks_only
from onnxheadprune.liveness.remnant import Remnant, behind, reshaped
from onnxheadprune.model.graph.facts import ADDS
from onnxheadprune.model.graph.view import Node, Use, Value


@dataclass(frozen=True)
class Branches:
    """The remains of branches that vanish together.

    Attributes:
        left: all values of which a constant is left.
        joints: where such a constant is added to something else.
        ends: constants that somebody else reads as a value of their full size.
        bypassed: what takes the place of additions to which nothing is left to add.
    """

    left: Mapping[Value, Remnant]
    joints: Sequence[tuple[Use, Remnant]]
    ends: Sequence[Remnant]
    bypassed: Mapping[Node, Value]

    def readers(self, end: Remnant) -> Iterator[Use]:
        """Return who needs the value that a constant takes the place of."""
        joints = {use for use, _ in self.joints}
        return (use for use in end.value.consumers if not self._vanishes(use.node) and use not in joints)

    def rejoined(self, joint: Use, left: Remnant) -> list[Edit]:
        """Edits that add a constant in its branch's place."""
        node = joint.node
        if left.name is not None:
            after = len(node.out.shape or ()) - 1 - left.axis
            name, made = left.name, list(left.edits)
            if after:
                name = f"{node.out.name}/{MARK}_bias"
                made += reshaped(node, left.name, name, (-1, *(1,) * after))
            return [*made, SetInput(node.ref, joint.input_index, name)]
        stream = self._stream(node)
        if node.out.is_graph_output:
            return [nodes.same(node.ref, stream.name, node.out.name), DropNode(node.ref, node.op_type)]
        # Additions of other branches that vanish are gone themselves.
        staying = [use for use in node.out.consumers if not self._vanishes(use.node)]
        return [SetInput(use.node.ref, use.input_index, stream.name) for use in staying]

    def _vanishes(self, node: Node) -> bool:
        return node in self.bypassed or _made(node, self.left)

    def _stream(self, joint: Node) -> Value:
        """Return what is left of a sum."""
        value = self.bypassed[joint]
        while value.producer is not None and value.producer in self.bypassed:
            value = self.bypassed[value.producer]
        return value


def branches(projections: Iterable[Remnant]) -> Branches:
    """Follows what is left of projections that sum over nothing."""
    left: dict[Value, Remnant] = {}
    waiting: list[tuple[int, Node]] = []
    queued: set[Node] = set()

    def reach(remnant: Remnant) -> None:
        left[remnant.value] = remnant
        for use in remnant.value.consumers:
            if use.node not in queued and use.node.scope is remnant.value.scope and not looks_only(use):
                queued.add(use.node)
                heapq.heappush(waiting, (use.node.index, use.node))

    for remnant in projections:
        reach(remnant)
    while waiting:
        found = behind(heapq.heappop(waiting)[1], left)
        if found is not None:
            reach(found)
    return _sorted_out(left)


def _sorted_out(left: Mapping[Value, Remnant]) -> Branches:
    joints: list[tuple[Use, Remnant]] = []
    ends: list[Remnant] = []
    for remnant in left.values():
        uses = [use for use in remnant.value.consumers if not looks_only(use) and not _made(use.node, left)]
        met = [use for use in uses if _joins(use, left)]
        joints += [(use, remnant) for use in met]
        if len(met) < len(uses) or remnant.value.is_graph_output:
            ends.append(remnant)
    bypassed = {
        use.node: beside for use, remnant in joints if remnant.name is None and (beside := _beside(use))
    }
    return Branches(left, joints, ends, bypassed)


def _joins(use: Use, left: Mapping[Value, Remnant]) -> bool:
    """Return whether a node adds a constant to a computed value of the same shape."""
    other = _beside(use) if use.node in ADDS else None
    return (
        other is not None
        and not other.is_constant
        and other not in left
        and other.shape == use.node.out.shape
    )


def _beside(joint: Use) -> Value | None:
    """Return what a branch is added to."""
    return joint.node.inputs[1 - joint.input_index]


def _made(node: Node, left: Mapping[Value, Remnant]) -> bool:
    return any(value in left for value in node.outputs)
