"""Removing a whole site: its projection sums over nothing, so only the projection's bias is left.

That bias is the same for every token. It is carried forward to where the branch joins the residual stream
and added there in the branch's place; everything before is then used by nobody and goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import MARK, AddConstant, Edit, InsertNode, SetInput
from onnxheadprune.liveness.axes import reshape_back
from onnxheadprune.liveness.contraction import CONVOLUTIONS
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.observers import looks_only
from onnxheadprune.liveness.refusal import Reason, Refusal
from onnxheadprune.liveness.registry import refuse
from onnxheadprune.model.graph.facts import (
    ADDS,
    CASTS,
    DROPOUTS,
    IDENTITIES,
    MULTIPLIES,
    RESHAPES,
    SLICES,
    SUMS_PRODUCTS,
    TRANSPOSES,
)
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.graph.view import Node, Use, Value

PASSING = IDENTITIES | DROPOUTS | CASTS


@dataclass(frozen=True)
class _Left:
    """What is left of a value: a constant that varies along `axis` alone, or (`name` None) zero."""

    name: str | None
    axis: int


@dataclass(frozen=True)
class Remnant:
    """How far the constant of a projection without heads could be followed.

    Attributes:
        value: the last value that it alone makes up.
        name: of the constant vector, None for zero.
        axis: the axis of `value` that the vector runs along.
        edits: what computes the vector.
    """

    value: Value
    name: str | None
    axis: int
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class _Followed:
    """How far a projection's branch was followed: up to `joint`, which adds it to something else, if any does."""

    left: _Left
    value: Value
    edits: tuple[Edit, ...]
    joint: Use | None
    passed: frozenset[Value]


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
    found = _followed(projection)
    if isinstance(found, Refusal):
        return found
    if found.joint is not None and found.joint.node not in others.shared:
        return [*found.edits, *_rejoin(found.joint, found.left, others)]
    return Remnant(found.value, found.left.name, found.left.axis, found.edits)


def meetings(projections: Iterable[Node]) -> Meetings:
    """How the branches of several projections meet."""
    projections = list(projections)
    found = [item for node in projections if isinstance(item := _followed(node), _Followed)]
    vanished = {node.out for node in projections}.union(*(item.passed for item in found))
    joints = [item.joint.node for item in found if item.joint is not None]
    shared = frozenset(node for node in joints if joints.count(node) > 1)
    bypassed = {
        item.joint.node: _beside(item.joint)
        for item in found
        if item.joint is not None and item.joint.node not in shared and _vanishes(item.joint, item.left)
    }
    return Meetings(shared, bypassed, frozenset(vanished))


def _beside(joint: Use) -> Value:
    other = joint.node.inputs[1 - joint.input_index]
    assert other is not None
    return other


def _vanishes(joint: Use, left: _Left) -> bool:
    """Whether an addition goes with the branch: nothing is left to add."""
    return left.name is None and not joint.node.out.is_graph_output


def _followed(projection: Node) -> _Followed | Refusal:
    left = _own_bias(projection)
    if isinstance(left, Refusal):
        return left
    edits: list[Edit] = []
    value = projection.out
    passed = {value}
    while True:
        uses = [use for use in value.consumers if not looks_only(use)]
        if value.is_graph_output or len(uses) != 1:
            break
        use = uses[0]
        if _joins(use, value):
            return _Followed(left, value, tuple(edits), use, frozenset(passed))
        step = _through(use, value, left, edits)
        if step is None:
            break
        left, value = step, use.node.out
        passed.add(value)
    return _Followed(left, value, tuple(edits), None, frozenset(passed))


def _own_bias(node: Node) -> _Left | Refusal:
    rank, index = len(node.out.shape or ()), roles_of(node).bias
    bias = None if index is None else node.input(index)
    scale = node.attribute("beta", 1.0)
    if node not in SUMS_PRODUCTS or (bias is not None and scale not in (0.0, 1.0)):
        why = f"removing all heads before a {node.op_type} is not supported"
        return refuse(node, Reason.NO_PROJECTION, why)
    axis = rank - 1 if CONVOLUTIONS.of(node) is None else 1
    return _Left(None if bias is None or not scale else bias.name, axis)


def _joins(use: Use, value: Value) -> bool:
    """Whether the consumer adds the branch to a computed value of the same shape."""
    if use.node not in ADDS:
        return False
    other = use.node.inputs[1 - use.input_index]
    return other is not None and not other.is_constant and other.shape == use.node.out.shape


def _rejoin(use: Use, left: _Left, others: Meetings) -> list[Edit]:
    node, other = use.node, others.left_of(_beside(use))
    rank = len(node.out.shape or ())
    if left.name is not None and left.axis == rank - 1:
        return [SetInput(node.ref, use.input_index, left.name)]
    if left.name is not None:
        shape = (-1, *(1,) * (rank - 1 - left.axis))
        shaped = f"{node.out.name}/{MARK}_bias"
        return [*_view(node, left.name, shaped, shape), SetInput(node.ref, use.input_index, shaped)]
    if not _vanishes(use, left):
        nothing = f"{node.out.name}/{MARK}_nothing"
        return [
            nodes.subtract(node.ref, other.name, other.name, nothing),
            SetInput(node.ref, use.input_index, nothing),
        ]
    gone = [after.node for after in node.out.consumers if after.node in others.bypassed]
    staying = [after for after in node.out.consumers if after.node not in gone]
    return [SetInput(after.node.ref, after.input_index, other.name) for after in staying]


def _view(node: Node, source: str, target: str, shape: tuple[int, ...]) -> list[Edit]:
    """The constant `source` under another shape."""
    return [
        AddConstant(node.scope.ref, f"{target}_shape", shape),
        nodes.reshape(node.ref, source, f"{target}_shape", target),
    ]


def _through(use: Use, value: Value, left: _Left, edits: list[Edit]) -> _Left | None:
    """What is left after one more node on the way, None if that cannot be said."""
    node = use.node
    if node in PASSING:
        return left if node not in CASTS or left.name is None else None
    if node in TRANSPOSES:
        order = node.attribute("perm", list(reversed(range(len(value.shape or ())))))
        return _Left(left.name, order.index(left.axis))
    if node in SLICES and use.input_index == 0:
        shape = node.out.shape
        whole = shape is not None and value.shape is not None and shape[left.axis] == value.shape[left.axis]
        return left if whole else None
    if node in RESHAPES and use.input_index == 0:
        return _reshaped(node, value, left)
    if node in MULTIPLIES and left.name is None and value.shape == node.out.shape:
        return left
    if node in ADDS or node in MULTIPLIES:
        return _with_constant(use, value, left, edits)
    return None


def _reshaped(node: Node, value: Value, left: _Left) -> _Left | None:
    """The axis that the bias runs along must come through whole."""
    source, target = value.shape, node.out.shape
    if source is None or target is None or not isinstance(source[left.axis], int):
        return None
    size = source[left.axis]
    for axis, dim in enumerate(target):
        if dim != size or not isinstance(dim, int) or dim < 2:
            continue
        labels = Live.over((axis,), np.arange(1, dim + 1))
        back = reshape_back(labels, source, target)
        if back is not None and back.axes == (left.axis,) and back.period(left.axis) == dim:
            return _Left(left.name, axis)
    return None


def _with_constant(use: Use, value: Value, left: _Left, edits: list[Edit]) -> _Left | None:
    """A bias or a layer scale on the way: constants that vary along the same axis alone."""
    node, other = use.node, use.node.inputs[1 - use.input_index]
    if other is None or not other.is_constant or other.shape is None:
        return None
    rank = len(node.out.shape or ())
    along = left.axis - (rank - len(other.shape))
    if (
        any(dim != 1 for axis, dim in enumerate(other.shape) if axis != along)
        or along != len(other.shape) - 1
    ):
        return None
    flat = other.name
    if len(other.shape) > 1:
        flat = f"{other.name}/{MARK}_flat{node.index}"
        edits += _view(node, other.name, flat, (-1,))
    if left.name is None:
        return _Left(flat, left.axis) if node in ADDS else left
    name = f"{node.out.name}/{MARK}_left"
    edits.append(InsertNode(node.ref, node.op_type, (left.name, flat), (name,)))
    return _Left(name, left.axis)
