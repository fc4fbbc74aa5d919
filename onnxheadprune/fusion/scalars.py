"""Numbers that a model computes from sizes it knows: `1 / sqrt(head_size)`, spelled in a dozen nodes."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnxheadprune.model.graph.facts import CASTS, CASTS_LIKE, IDENTITIES, REREADS
from onnxheadprune.model.graph.view import Node, Value

MAX_DEPTH = 24


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
    function = _UNARY.get(node.op_type)
    if function is not None:
        number = scalar_of(node.input(0), depth - 1)
        return None if number is None else function(number)
    return _binary(node, depth)


def _binary(node: Node, depth: int) -> float | None:
    function = _BINARY.get(node.op_type)
    if function is None:
        return None
    left, right = (scalar_of(node.input(index), depth - 1) for index in (0, 1))
    return None if left is None or right is None else function(left, right)


def _root(number: float) -> float | None:
    return math.sqrt(number) if number >= 0 else None


def _inverse(number: float) -> float | None:
    return 1 / number if number else None


def _quotient(left: float, right: float) -> float | None:
    return left / right if right else None


def _power(left: float, right: float) -> float | None:
    return left**right if left > 0 else None


_SAME = CASTS | IDENTITIES | REREADS | CASTS_LIKE
_UNARY: dict[str, Callable[[float], float | None]] = {
    "Sqrt": _root,
    "Reciprocal": _inverse,
    "Neg": lambda number: -number,
}
_BINARY: dict[str, Callable[[float, float], float | None]] = {
    "Mul": lambda left, right: left * right,
    "Div": _quotient,
    "Pow": _power,
    "Add": lambda left, right: left + right,
    "Sub": lambda left, right: left - right,
}
