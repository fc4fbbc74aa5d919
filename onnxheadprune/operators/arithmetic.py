"""Arithmetic of constants: how exporters compute the shapes they reshape to, scales and masks.

`number_function` is asked for whole numbers and dimensions, `arithmetic` for one number per input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim
from onnxheadprune.model.graph.elements import INTEGER_TYPES, MAX_ELEMENTS, Elements, boxed, elements_of
from onnxheadprune.model.graph.tables import arithmetic, number_function
from onnxheadprune.model.graph.view import Node


@number_function("Identity")
def _same(node: Node) -> Elements | None:
    return elements_of(node, 0)


@number_function("Cast")
def _cast(node: Node) -> Elements | None:
    data = elements_of(node, 0)
    return data if node.attribute("to") in INTEGER_TYPES else None


def _combine(function: Callable[[Dim, Dim], Dim | None]) -> Callable[[Node], Elements | None]:
    def combined(node: Node) -> Elements | None:
        left, right = elements_of(node, 0), elements_of(node, 1)
        if left is None or right is None or len(node.inputs) != 2:
            return None
        try:
            pairs = np.broadcast(left, right)
        except ValueError:
            return None
        if pairs.size > MAX_ELEMENTS:
            return None
        items = [None if a is None or b is None else function(a, b) for a, b in pairs]
        return boxed(items, pairs.shape)

    return combined


def _equal(left: Dim, right: Dim) -> Dim | None:
    if left == right:
        return 1
    if isinstance(left, int) and isinstance(right, int):
        return 0
    # A dimension is never negative: the exporters' `where(shape == -1, 1, shape)` is decided by that.
    number, other = (left, right) if isinstance(left, int) else (right, left)
    return 0 if isinstance(number, int) and number < 0 and dims.never_negative(other) else None


def _larger(left: Dim, right: Dim) -> Dim | None:
    return _extreme(left, right, max)


def _smaller(left: Dim, right: Dim) -> Dim | None:
    return _extreme(left, right, min)


def _extreme(left: Dim, right: Dim, pick: Callable[[int, int], int]) -> Dim | None:
    """Of equal polynomials either one; a dimension is never negative, a difference of two may be."""
    if left == right:
        return left
    if isinstance(left, int) and isinstance(right, int):
        return pick(left, right)
    number, other = (left, right) if isinstance(left, int) else (right, left)
    if not isinstance(number, int) or number > 0 or not dims.never_negative(other):
        return None
    return other if pick(0, 1) else number


@number_function("Where")
def _where(node: Node) -> Elements | None:
    condition, yes, no = elements_of(node, 0), elements_of(node, 1), elements_of(node, 2)
    if condition is None or yes is None or no is None:
        return None
    try:
        triples = np.broadcast(condition, yes, no)
    except ValueError:
        return None
    if triples.size > MAX_ELEMENTS:
        return None
    chosen: list[Dim | None] = []
    for known, first, second in triples:
        if known is None:
            chosen.append(None)
        else:
            chosen.append(first if known else second)
    return boxed(chosen, triples.shape)


def _truncating_divide(left: Dim, right: Dim) -> Dim | None:
    if isinstance(left, int) and isinstance(right, int) and (left < 0 or right <= 0):
        return None
    return dims.floor_divide(left, right)


@number_function("Neg")
def _negative(node: Node) -> Elements | None:
    data = elements_of(node, 0)
    if data is None:
        return None
    items = [None if item is None else dims.multiply(-1, item) for item in data.reshape(-1)]
    return boxed(items, data.shape)


@number_function("Mod")
def _modulo(node: Node) -> Elements | None:
    """The remainder of a floor division; with `fmod` the sign would be the dividend's."""
    return None if node.attribute("fmod", 0) else _combine(_remainder)(node)


def _remainder(left: Dim, right: Dim) -> Dim | None:
    if isinstance(left, int) and isinstance(right, int):
        return left % right if right else None
    if not isinstance(right, int) or right <= 0:
        return None
    return dims.subtract(left, dims.multiply(right, dims.floor_divide(left, right)))


number_function("Add")(_combine(dims.add))
number_function("Sub")(_combine(dims.subtract))
number_function("Mul")(_combine(dims.multiply))
number_function("Div")(_combine(_truncating_divide))
number_function("Equal")(_combine(_equal))
number_function("Max")(_combine(_larger))
number_function("Min")(_combine(_smaller))


Numbers = Sequence[float | None]


def _register(op_type: str, function: Callable[..., float | None]) -> None:
    """An operator that needs to know all of its inputs."""

    @arithmetic(op_type)
    def computed(_: Node, numbers: Numbers) -> float | None:
        return None if None in numbers else function(*numbers)


def _exponential(number: float) -> float | None:
    try:
        return math.exp(number)
    except OverflowError:
        return None


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
_register("Greater", lambda left, right: float(left > right))
_register("GreaterOrEqual", lambda left, right: float(left >= right))
_register("Less", lambda left, right: float(left < right))
_register("LessOrEqual", lambda left, right: float(left <= right))
_register("Abs", abs)
_register("Sign", lambda number: float((number > 0) - (number < 0)))
_register("Relu", lambda number: max(number, 0.0))
_register("Tanh", math.tanh)
_register("Exp", _exponential)
_register(
    "Sigmoid",
    lambda number: 1 / (1 + exponential) if (exponential := _exponential(-number)) is not None else 0.0,
)
_register(
    "Softplus",
    lambda number: math.log1p(exponential) if (exponential := _exponential(number)) is not None else number,
)


@arithmetic("Div")
def _quotient(node: Node, numbers: Numbers) -> float | None:
    """Whole numbers are divided without a rest; what a negative one is rounded to, nobody needs to know."""
    left, right = numbers
    if left is None or not right:
        return None
    if any(value is not None and value.elem_type in INTEGER_TYPES for value in node.inputs):
        return float(left // right) if left >= 0 and right > 0 else None
    return left / right


@arithmetic("Clip")
def _bounded(node: Node, numbers: Numbers) -> float | None:
    """Bounds are attributes in old models, and may be left out."""
    number, low, high = (*numbers, None, None)[:3]
    if number is None or any(node.input(index) is not None and numbers[index] is None for index in (1, 2)):
        return None
    low = node.attribute("min", -math.inf) if low is None else low
    high = node.attribute("max", math.inf) if high is None else high
    return float(min(max(number, low), high))


@arithmetic("Where")
def _chosen(_: Node, numbers: Numbers) -> float | None:
    """Two sides that are the same need no condition."""
    condition, left, right = numbers
    if condition is None:
        return left if left == right else None
    return left if condition else right


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
