"""Hidden states: the residual stream after each linear layer that adds to it."""

from __future__ import annotations

from dataclasses import dataclass

from onnxheadprune.choosing.activations.linear import Linear, linear_at
from onnxheadprune.model.graph.facts import ADDS, ADDS_AND_NORMALIZES, DROPOUTS, IDENTITIES
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.graph.view import GraphView, Node, Value

STREAM_OUTPUT = 3
"""Of a fused addition and normalisation: the sum, before it is normalised."""


@dataclass(frozen=True, eq=False)
class Hidden:
    """One state of the residual stream.

    Attributes:
        value: the state.
        axes: its axes that hold features.
    """

    value: Value
    axes: tuple[int, ...]


def hidden_states(view: GraphView) -> tuple[Hidden, ...]:
    """The stream after each addition, in graph order.

    Where a normalisation alone reads the sum, as in BERT, its output is the stream.
    """
    found: dict[Value, Hidden] = {}
    for node in view.main.nodes:
        linear = linear_at(node)
        joint = None if linear is None or linear.other is None else _joint(linear, linear.other)
        if linear is not None and joint is not None and len(joint.shape or ()) == len(linear.out.shape or ()):
            found.setdefault(joint, Hidden(joint, linear.out_axes))
    return tuple(found.values())


def _joint(linear: Linear, other: Value) -> Value | None:
    """The stream after the addition of a map's result to what it is added to."""
    for use in other.consumers:
        if any(_origin(value) is linear.out for value in use.node.inputs if value not in (None, other)):
            return _stream(use.node)
    return None


def _origin(value: Value | None) -> Value | None:
    while value is not None and value.producer is not None and value.producer in IDENTITIES | DROPOUTS:
        value = value.producer.inputs[0]
    return value


def _stream(node: Node) -> Value:
    if node in ADDS_AND_NORMALIZES:
        total = node.outputs[STREAM_OUTPUT] if len(node.outputs) > STREAM_OUTPUT else None
        return total if total is not None and total.consumers else node.out
    if node in ADDS:
        readers = [use.node for use in node.out.consumers]
        if len(readers) == 1 and roles_of(readers[0]).learned and not node.out.is_graph_output:
            return readers[0].out
    return node.out
