"""Arithmetic of constants: how exporters compute the shapes they reshape to, scales and masks.

Each function has two readings: of whole numbers and dimensions, element by element (`combined`), and of one number per
input (`known`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim
from onnxheadprune.model.graph.elements import INTEGER_TYPES, MAX_ELEMENTS, Elements, boxed, elements_of
from onnxheadprune.model.graph.view import Node

Numbers = Sequence[float | None]


def combined(count: int, function: Callable[..., Dim | None]) -> Callable[[Node], Elements | None]:
    """Return what a function of elements makes of those of its inputs, broadcast to each other."""

    def made(node: Node) -> Elements | None:
        known = [value.elements for value in node.inputs if value is not None and value.elements is not None]
        if not len(known) == len(node.inputs) == count:
            return None
        try:
            each = np.broadcast(*known)
        except ValueError:
            return None
        if each.size > MAX_ELEMENTS:
            return None
        return boxed([function(*items) for items in each], each.shape)

    return made


def of_known(count: int, function: Callable[..., Dim | None]) -> Callable[[Node], Elements | None]:
    """The same for a function that needs to know all of its operands."""
    return combined(count, lambda *items: None if None in items else function(*items))


def known(function: Callable[..., float | None]) -> Callable[[Node, Numbers], float | None]:
    """Return what a function makes of one number per input, all of which it needs to know."""
    return lambda _, numbers: None if None in numbers else function(*numbers)


def cast_elements(node: Node) -> Elements | None:
    """Whole numbers stay what they are."""
    return elements_of(node, 0) if node.attribute("to") in INTEGER_TYPES else None


def same_elements(node: Node) -> Elements | None:
    """The elements of the input."""
    return elements_of(node, 0)


def equal(left: Dim, right: Dim) -> Dim | None:
    """1 for equal elements, 0 for others, None where that is open."""
    if left == right:
        return 1
    if isinstance(left, int) and isinstance(right, int):
        return 0
    # A dimension is never negative: the exporters' `where(shape == -1, 1, shape)` is decided by that.
    number, other = (left, right) if isinstance(left, int) else (right, left)
    return 0 if isinstance(number, int) and number < 0 and dims.never_negative(other) else None


def extreme(pick: Callable[[int, int], int]) -> Callable[[Dim, Dim], Dim | None]:
    """The larger or smaller; a dimension is never negative, a difference of two may be."""

    def picked(left: Dim, right: Dim) -> Dim | None:
        if left == right:
            return left
        if isinstance(left, int) and isinstance(right, int):
            return pick(left, right)
        number, other = (left, right) if isinstance(left, int) else (right, left)
        if not isinstance(number, int) or number > 0 or not dims.never_negative(other):
            return None
        return other if pick(0, 1) else number

    return picked


def chosen_element(condition: Dim | None, yes: Dim | None, no: Dim | None) -> Dim | None:
    """One element of a Where."""
    return None if condition is None else yes if condition else no


def truncating_divide(left: Dim, right: Dim) -> Dim | None:
    """A division of numbers that are not negative, which rounds down."""
    if isinstance(left, int) and isinstance(right, int) and (left < 0 or right <= 0):
        return None
    return dims.floor_divide(left, right)


def remainders(node: Node) -> Elements | None:
    """Remainders of floor divisions; with `fmod` the sign would be the dividend's."""
    return None if node.attribute("fmod", 0) else of_known(2, _remainder)(node)


def _remainder(left: Dim, right: Dim) -> Dim | None:
    if isinstance(left, int) and isinstance(right, int):
        return left % right if right else None
    if not isinstance(right, int) or right <= 0:
        return None
    return dims.subtract(left, dims.multiply(right, dims.floor_divide(left, right)))


def exponential(number: float) -> float | None:
    """None where it is too large."""
    try:
        return math.exp(number)
    except OverflowError:
        return None


def root(number: float) -> float | None:
    """None for negative numbers."""
    return math.sqrt(number) if number >= 0 else None


def inverse(number: float) -> float | None:
    """None for zero."""
    return 1 / number if number else None


def power(left: float, right: float) -> float | None:
    """None where it is too large, or the base is not positive."""
    try:
        return left**right if left > 0 else None
    except OverflowError:
        return None


def sigmoid(number: float) -> float:
    """1 / (1 + exp(-number))."""
    part = exponential(-number)
    return 0.0 if part is None else 1 / (1 + part)


def softplus(number: float) -> float:
    """log(1 + exp(number))."""
    part = exponential(number)
    return number if part is None else math.log1p(part)


def quotient(node: Node, numbers: Numbers) -> float | None:
    """Whole numbers are divided without a rest; what a negative one is rounded to, nobody needs to know."""
    left, right = numbers
    if left is None or not right:
        return None
    if any(value is not None and value.elem_type in INTEGER_TYPES for value in node.inputs):
        return float(left // right) if left >= 0 and right > 0 else None
    return left / right


def bounded(node: Node, numbers: Numbers) -> float | None:
    """Bounds are attributes in old models, and may be left out."""
    number, low, high = (*numbers, None, None)[:3]
    if number is None or any(node.input(index) is not None and numbers[index] is None for index in (1, 2)):
        return None
    low = node.attribute("min", -math.inf) if low is None else low
    high = node.attribute("max", math.inf) if high is None else high
    return float(min(max(number, low), high))


def chosen(_: Node, numbers: Numbers) -> float | None:
    """Two sides that are the same need no condition."""
    condition, left, right = numbers
    if condition is None:
        return left if left == right else None
    return left if condition else right


def either(_: Node, numbers: Numbers) -> float | None:
    """One true side is enough."""
    if any(numbers):
        return 1.0
    return None if None in numbers else 0.0


def both(_: Node, numbers: Numbers) -> float | None:
    """One false side is enough."""
    if 0.0 in numbers:
        return 0.0
    return None if None in numbers else 1.0
