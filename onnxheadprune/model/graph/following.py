"""How many elements onnx would follow through a graph, counted before it does.

Its data propagation has no bound: a shape that is joined with itself thirty times fills any memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain

from onnx import ValueInfoProto

from onnxheadprune.model.graph.facts import GATHERS, JOINS, OBSERVES
from onnxheadprune.model.graph.schemas import follows_elements
from onnxheadprune.model.graph.view import MAX_LITERAL_ELEMENTS, GraphView, Node, Value

MAX_FOLLOWED = 2**20
"""Elements of all values together; a hundred bytes each."""


def follows_few(view: GraphView) -> bool:
    """Whether the elements of all shapes and literals, followed as far as they go, stay few."""
    longest = max((len(info.type.tensor_type.shape.dim) for info in _declared(view)), default=0)
    counts: dict[Value, int] = {}
    total = 0
    for node in view.nodes:
        count = _count(node, counts, max(64, longest))
        total += count
        if total > MAX_FOLLOWED:
            return False
        for output in node.outputs if count else ():
            if output is not None:
                counts[output] = count
    return True


def _declared(view: GraphView) -> Iterable[ValueInfoProto]:
    graph = view.main.proto
    return chain(graph.input, graph.value_info, graph.output)


def _count(node: Node, counts: dict[Value, int], longest: int) -> int:
    """At most so many elements of a node's output are followed."""
    if node in OBSERVES:
        return longest
    if node.domain or not follows_elements(node.op_type, node.opset):
        return 0
    given = [_known(value, counts) for value in node.inputs if value is not None]
    if not given or 0 in given:
        return 0
    if node in JOINS:
        return sum(given)
    return given[-1] if node in GATHERS else max(given)


def _known(value: Value, counts: dict[Value, int]) -> int:
    if value.tensor is None:
        return counts.get(value, 0)
    size = math.prod(value.tensor.dims)
    return size if size <= MAX_LITERAL_ELEMENTS else 0
