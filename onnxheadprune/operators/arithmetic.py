"""Arithmetic of single numbers: scales and masks that a model computes from what it knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnxheadprune.model.graph.elements import INTEGER_TYPES
from onnxheadprune.model.graph.tables import arithmetic
from onnxheadprune.model.graph.view import Node

Numbers = Sequence[float | None]


def _register(op_type: str, function: Callable[..., float | None]) -> None:
    """An operator that needs to know all of its inputs."""

    @arithmetic(op_type)
    def computed(_: Node, numbers: Numbers) -> float | None:
        return None if None in numbers else function(*numbers)


def _root(number: float) -> float | None:
    return math.sqrt(number) if number >= 0 else None


def _inverse(number: float) -> float | None:
    return 1 / number if number else None


def _power(left: float, right: float) -> float | None:
    try:
        return left**right if left > 0 else None
    except OverflowError:
        return None


_register("Add", lambda left, right: left + right)
_register("Sub", lambda left, right: left - right)
_register("Mul", lambda left, right: left * right)
_register("Neg", lambda number: -number)
_register("Sqrt", _root)
_register("Reciprocal", _inverse)
_register("Pow", _power)
_register("Not", lambda number: float(not number))
_register("Equal", lambda left, right: float(left == right))


@arithmetic("Div")
def _quotient(node: Node, numbers: Numbers) -> float | None:
    """Whole numbers are divided without a rest; what a negative one is rounded to, nobody needs to know."""
    left, right = numbers
    if left is None or not right:
        return None
    if any(value is not None and value.elem_type in INTEGER_TYPES for value in node.inputs):
        return float(left // right) if left >= 0 and right > 0 else None
    return left / right


@arithmetic("Or")
def _either(_: Node, numbers: Numbers) -> float | None:
    """One true side is enough."""
    if any(numbers):
        return 1.0
    return None if None in numbers else 0.0


@arithmetic("And")
def _both(_: Node, numbers: Numbers) -> float | None:
    """One false side is enough."""
    if 0.0 in numbers:
        return 0.0
    return None if None in numbers else 1.0
