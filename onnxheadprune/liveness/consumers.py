"""Consumers of a value and their needs in the original.

An observer reads only the shape: exports compute scales, masks and target shapes from the shapes of Q, K and V, and
need only the number of heads. Others pick positions, and positions that nobody reads in the original either (tokens
that are cut off, the rest of a cropped window) have nothing to do with heads: a value is narrowed only where heads were
removed.
"""

from __future__ import annotations

from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.domain import MASKS
from onnxheadprune.liveness.live import FULL
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.rule_calls import ask
from onnxheadprune.model.graph.operator import CARRIERS, ELEMENTWISE, OBSERVES, is_a, kind
from onnxheadprune.model.graph.view import Node, Use, Value
from onnxheadprune.model.graph.walks import reachable

ONLY_SHOWN = CARRIERS | kind("Slice")
"""Operators that pass a value on under other axes or another type."""


def looks_only(use: Use) -> bool:
    """Return whether one edge asks for a value's shape or type, never for its contents."""
    if is_a(use.node, "CastLike") and use.input_index == 1:
        return True
    return only_observed(use.node) and use.input_index not in use.node.roles.places


def only_observed(node: Node, depth: int = 6) -> bool:
    """Return whether a node merely carries a value to shape observers, so that it asks for no contents itself."""
    if node in OBSERVES:
        return True
    if depth == 0 or node.domain or node not in ONLY_SHOWN or node.out.is_graph_output:
        return False
    return bool(node.out.consumers) and all(
        use.input_index == 0 and only_observed(use.node, depth - 1) for use in node.out.consumers
    )


def sizes_only(use: Use) -> bool:
    """Return whether only sizes are read of what one edge computes, element by element, from a value of its own size.

    A cut of that size would have to follow: this is about values that none narrows.
    """

    def behind(item: Use) -> list[Use]:
        return [] if looks_only(item) else [other for value in item.node.results for other in value.consumers]

    return all(
        looks_only(item)
        or (
            item.node in ELEMENTWISE | ONLY_SHOWN
            and item.input_index not in item.node.roles.places
            and not any(value.is_graph_output for value in item.node.results)
        )
        for item in reachable([use], behind)
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


MAX_CARRIERS = 6
"""Carriers in a row that are followed."""


PICKING = kind("Slice", "Gather", "GatherND")
"""Nodes that pick a part of their input by bounds or indices of their own."""


def selecting_answer(use: Use) -> Answer | None:
    """The answer of a fully live node that picks from this input (a Slice, a Gather), None for any other."""
    if use.node not in PICKING:
        return None
    answer = ask(use.node, (FULL,) * len(use.node.outputs), MASKS)
    if isinstance(answer, Refusal) or use.input_index not in answer.selects:
        return None
    return answer
