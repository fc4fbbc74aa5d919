"""Element-wise operators with numpy broadcasting: every input is read where the output is live.

Whole numbers and dimensions are followed through those that exporters compute shapes with.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from onnxheadprune.liveness.index_notation import elementwise, same_axes
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim
from onnxheadprune.model.graph.elements import INTEGER_TYPES, MAX_ELEMENTS, Elements, boxed, elements_of
from onnxheadprune.model.graph.operator import (
    ACTIVATES,
    COMPARES,
    DRAWS_OUTSIDE_STANDARD,
    ELEMENTWISE,
    STANDS_FOR_PATTERN,
    VANISHES,
    Kind,
    Roles,
)
from onnxheadprune.model.graph.view import Node
from onnxheadprune.operators.record import operator


def _combined(count: int, function: Callable[..., Dim | None]) -> Callable[[Node], Elements | None]:
    """Return a function that computes the elements of a node from those of its inputs, with broadcasting."""

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


def _of_known(count: int, function: Callable[..., Dim | None]) -> Callable[[Node], Elements | None]:
    """The same for a function that needs to know all of its operands."""
    return _combined(count, lambda *items: None if None in items else function(*items))


def _cast_elements(node: Node) -> Elements | None:
    """Whole numbers stay what they are."""
    return elements_of(node, 0) if node.attribute("to") in INTEGER_TYPES else None


def _equal(left: Dim, right: Dim) -> Dim | None:
    """1 for equal elements, 0 for others, None where that is open."""
    if left == right:
        return 1
    if isinstance(left, int) and isinstance(right, int):
        return 0
    # A dimension is never negative: the exporters' `where(shape == -1, 1, shape)` is decided by that.
    number, other = (left, right) if isinstance(left, int) else (right, left)
    return 0 if isinstance(number, int) and number < 0 and dims.never_negative(other) else None


def _extreme(pick: Callable[[int, int], int]) -> Callable[[Dim, Dim], Dim | None]:
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


def _chosen_element(condition: Dim | None, yes: Dim | None, no: Dim | None) -> Dim | None:
    """One element of a Where."""
    return None if condition is None else yes if condition else no


def _truncating_divide(left: Dim, right: Dim) -> Dim | None:
    """A division of numbers that are not negative, which rounds down."""
    if isinstance(left, int) and isinstance(right, int) and (left < 0 or right <= 0):
        return None
    return dims.floor_divide(left, right)


def _remainders(node: Node) -> Elements | None:
    """Remainders of floor divisions; with `fmod` the sign would be the dividend's."""
    return None if node.attribute("fmod", 0) else _of_known(2, _remainder)(node)


def _remainder(left: Dim, right: Dim) -> Dim | None:
    if isinstance(left, int) and isinstance(right, int):
        return left % right if right else None
    if not isinstance(right, int) or right <= 0:
        return None
    return dims.subtract(left, dims.multiply(right, dims.floor_divide(left, right)))


def _unary(names: str, *kinds: Kind, **more: Any) -> None:
    operator(*names.split(), kinds=(ELEMENTWISE, *kinds), axes="...->...", **more)


def _broadcasting(names: str, *kinds: Kind, **more: Any) -> None:
    operator(*names.split(), kinds=(ELEMENTWISE, *kinds), axes=elementwise, **more)


operator("CastLike", axes="...->...")  # The second input only lends its type.
# At inference the identity; ratio and training_mode are scalars, and the mask is as large as the data.
operator("Dropout", roles=Roles(training_mode=2), axes=partial(same_axes, alike=True))

_broadcasting("Add", elements=_of_known(2, dims.add))
_broadcasting("Sub", elements=_of_known(2, dims.subtract))
_broadcasting("Mul", elements=_of_known(2, dims.multiply))
_broadcasting("Div", elements=_of_known(2, _truncating_divide))
_broadcasting("Mod", elements=_remainders)
_broadcasting("Max", elements=_of_known(2, _extreme(max)))
_broadcasting("Min", elements=_of_known(2, _extreme(min)))
_broadcasting("Equal", COMPARES, elements=_of_known(2, _equal))
_broadcasting("Greater GreaterOrEqual Less LessOrEqual", COMPARES)
_broadcasting("Pow Or And Xor Mean Sum BitwiseAnd BitwiseOr BitwiseXor BitShift")
_broadcasting("PRelu", ACTIVATES)
_broadcasting("Where", roles=Roles(contents=(1, 2)), elements=_combined(3, _chosen_element))

_unary("Identity", elements=lambda node: elements_of(node, 0))
_unary("Cast", elements=_cast_elements)
_unary("Neg", elements=_of_known(1, partial(dims.multiply, -1)))
_unary("Clip", roles=Roles(places=(1, 2)))
_unary("Sqrt Reciprocal Abs Sign Not Erf Log IsNaN IsInf Floor Ceil Round Shrink BitwiseNot")
_unary("Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh")
_unary("Relu Exp Softplus Sigmoid", ACTIVATES, VANISHES)
_unary("Tanh Softsign Elu Selu LeakyRelu HardSwish HardSigmoid Mish Celu ThresholdedRelu", ACTIVATES)
_unary("Gelu Swish", ACTIVATES, STANDS_FOR_PATTERN)
for _name in ("Gelu", "QuickGelu", "FastGelu", "BiasGelu"):  # Some have a bias along the last axis.
    _broadcasting(f"com.microsoft.{_name}", ACTIVATES, roles=Roles(alike=(0, 1), learned=(1,)))

operator("com.microsoft.BitmaskDropout", kinds=(DRAWS_OUTSIDE_STANDARD,), roles=Roles(training_mode=2))
operator(
    "com.microsoft.BiasDropout",
    "com.microsoft.BitmaskBiasDropout",
    kinds=(DRAWS_OUTSIDE_STANDARD,),
    roles=Roles(training_mode=4),
)
