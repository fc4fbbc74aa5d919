"""Numbers that a model computes from sizes it knows: `1 / sqrt(head_size)`, spelled in a dozen nodes."""

from __future__ import annotations

from onnxheadprune.model.graph.facts import CASTS, CASTS_LIKE, IDENTITIES, REREADS
from onnxheadprune.model.graph.tables import ARITHMETIC
from onnxheadprune.model.graph.view import Value

MAX_DEPTH = 24
_SAME = CASTS | IDENTITIES | REREADS | CASTS_LIKE


def scalar_of(value: Value | None, depth: int = MAX_DEPTH) -> float | None:
    """The one number that a value holds, None if it holds several or depends on the inputs."""
    if value is None or depth == 0:
        return None
    literal = value.literal()
    if literal is not None:
        return float(literal.reshape(-1)[0]) if literal.size == 1 and literal.dtype.kind in "fiubV" else None
    node = value.producer
    if node is None or node.domain:
        return None
    if node in _SAME:
        return scalar_of(node.input(0), depth - 1)
    function = ARITHMETIC.of(node)
    return (
        None if function is None else function(node, [scalar_of(value, depth - 1) for value in node.inputs])
    )
