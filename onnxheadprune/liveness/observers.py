"""Shape observers: who looks at the shape of a value, never at its contents.

Exports compute scales, masks and target shapes from the shapes of Q, K and V. Such a node does not need
the removed heads, only their number.
"""

from __future__ import annotations

from onnxheadprune.model.graph.facts import CARRIERS, CASTS_LIKE, OBSERVES, SLICES
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.graph.view import Node, Use, Value

ONLY_SHOWN = CARRIERS | SLICES
"""Operators that pass a value on under other axes or another type."""


def looks_only(use: Use) -> bool:
    """Return whether one edge asks for a value's shape or type, never for its contents."""
    if use.node in CASTS_LIKE and use.input_index == 1:
        return True
    return only_observed(use.node) and use.input_index not in roles_of(use.node).places


def only_observed(node: Node, depth: int = 6) -> bool:
    """Return whether a node merely carries a value to shape observers, so that it asks for no contents itself."""
    if node in OBSERVES:
        return True
    if depth == 0 or node.domain or node not in ONLY_SHOWN or node.out.is_graph_output:
        return False
    return bool(node.out.consumers) and all(
        use.input_index == 0 and only_observed(use.node, depth - 1) for use in node.out.consumers
    )


def content_uses(value: Value) -> list[Use]:
    """Return the uses of a value that need its contents."""
    return [use for use in value.consumers if not looks_only(use)]


def is_shared(value: Value) -> bool:
    """Return whether several readers need the contents of a value, or callers do."""
    return value.is_graph_output or len(content_uses(value)) > 1


def contents_of(node: Node) -> list[Value]:
    """Return the inputs whose contents a node needs."""
    uses = [Use(node, index) for index, value in enumerate(node.inputs) if value is not None]
    return [
        value for use in uses if not looks_only(use) and (value := node.inputs[use.input_index]) is not None
    ]
