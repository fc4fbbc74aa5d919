"""Removing a whole site: its projection sums over nothing, so only the projection's bias is left.

That bias is the same for every token. It is carried forward to where the branch joins the residual stream
and added there in the branch's place; everything before is then used by nobody and goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import MARK, Edit, SetInput
from onnxheadprune.liveness.observers import looks_only
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.remnant import Followed, Remnant, followed, reshaped
from onnxheadprune.model.graph.view import Node, Use, Value


@dataclass(frozen=True)
class Meetings:
    """How the branches that vanish together meet.

    Attributes:
        shared: additions of two such branches: neither can take the other's place.
        bypassed: what takes the place of additions that vanish with a branch.
        vanished: all that one of these branches alone makes up.
    """

    shared: frozenset[Node] = frozenset()
    bypassed: Mapping[Node, Value] = field(default_factory=dict)
    vanished: frozenset[Value] = frozenset()

    def swallow(self, value: Value) -> bool:
        """Whether all who read a value vanish as well: products with what is left of another branch, zero."""
        readers = [use.node for use in value.consumers if not looks_only(use)]
        return not value.is_graph_output and all(node.out in self.vanished for node in readers)

    def left_of(self, value: Value) -> Value:
        """What a value is after all of the branches are gone."""
        while value.producer is not None and value.producer in self.bypassed:
            value = self.bypassed[value.producer]
        return value


ALONE = Meetings()


def detach(projection: Node, others: Meetings = ALONE) -> Sequence[Edit] | Remnant | Refusal:
    """Edits that take a projection's branch off the residual stream.

    Args:
        projection: the contraction whose context is to vanish.
        others: where the branches of other projections vanish too.

    Returns:
        The edits; what is left, if the branch does not end in an addition to something else; or a refusal
        if the operator adds something that is no plain bias.
    """
    found = followed(projection)
    if isinstance(found, Refusal):
        return found
    if found.joint is None or found.joint.node in others.shared:
        return found.end
    return [*found.end.edits, *_rejoin(found.joint, found.end, others)]


def meetings(projections: Iterable[Node]) -> Meetings:
    """How the branches of several projections meet."""
    projections = list(projections)
    found = [item for node in projections if isinstance(item := followed(node), Followed)]
    vanished = {node.out for node in projections}.union(*(item.passed for item in found))
    joints = [(item.joint, item.end) for item in found if item.joint is not None]
    met = [joint.node for joint, _ in joints]
    shared = frozenset(node for node in met if met.count(node) > 1)
    bypassed = {
        joint.node: _beside(joint)
        for joint, end in joints
        if joint.node not in shared and _vanishes(joint, end)
    }
    return Meetings(shared, bypassed, frozenset(vanished))


def _beside(joint: Use) -> Value:
    """What a branch is added to."""
    other = joint.node.inputs[1 - joint.input_index]
    assert other is not None
    return other


def _vanishes(joint: Use, left: Remnant) -> bool:
    """Whether an addition goes with the branch: nothing is left to add."""
    return left.name is None and not joint.node.out.is_graph_output


def _rejoin(joint: Use, left: Remnant, others: Meetings) -> list[Edit]:
    """Edits that add what is left in the branch's place."""
    node, other = joint.node, others.left_of(_beside(joint))
    behind = len(node.out.shape or ()) - 1 - left.axis
    if left.name is not None and not behind:
        return [SetInput(node.ref, joint.input_index, left.name)]
    if left.name is not None:
        column = f"{node.out.name}/{MARK}_bias"
        made = reshaped(node, left.name, column, (-1, *(1,) * behind))
        return [*made, SetInput(node.ref, joint.input_index, column)]
    if not _vanishes(joint, left):
        nothing = f"{node.out.name}/{MARK}_nothing"
        zero = nodes.subtract(node.ref, other.name, other.name, nothing)
        return [zero, SetInput(node.ref, joint.input_index, nothing)]
    # Additions of other branches that vanish are gone themselves.
    staying = [use for use in node.out.consumers if use.node not in others.bypassed]
    return [SetInput(use.node.ref, use.input_index, other.name) for use in staying]
