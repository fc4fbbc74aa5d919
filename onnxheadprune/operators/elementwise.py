"""Element-wise operators with numpy broadcasting: every input is read where the output is live."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from onnxheadprune.liveness.index_notation import elementwise, same_axes
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.operator import (
    ACTIVATES,
    COMPARES,
    ELEMENTWISE,
    STANDS_FOR_PATTERN,
    VANISHES,
    Kind,
    Roles,
)
from onnxheadprune.operators import arithmetic
from onnxheadprune.operators.arithmetic import combined, known, of_known
from onnxheadprune.operators.record import operator


def _unary(names: str, *kinds: Kind, **more: Any) -> None:
    operator(*names.split(), kinds=(ELEMENTWISE, *kinds), axes="...->...", **more)


def _broadcasting(names: str, *kinds: Kind, **more: Any) -> None:
    operator(*names.split(), kinds=(ELEMENTWISE, *kinds), axes=elementwise, **more)


operator("CastLike", axes="...->...")  # The second input only lends its type.
# At inference the identity; ratio and training_mode are scalars, and the mask is as large as the data.
operator("Dropout", roles=Roles(training_mode=2), axes=partial(same_axes, alike=True))

# Whole numbers and dimensions are followed through what exporters compute shapes with.
_broadcasting("Add", elements=of_known(2, dims.add), number=known(lambda left, right: left + right))
_broadcasting("Sub", elements=of_known(2, dims.subtract), number=known(lambda left, right: left - right))
_broadcasting("Mul", elements=of_known(2, dims.multiply), number=known(lambda left, right: left * right))
_broadcasting("Div", elements=of_known(2, arithmetic.truncating_divide), number=arithmetic.quotient)
_broadcasting("Mod", elements=arithmetic.remainders)
_broadcasting("Pow", number=known(arithmetic.power))
_broadcasting("Max", elements=of_known(2, arithmetic.extreme(max)))
_broadcasting("Min", elements=of_known(2, arithmetic.extreme(min)))
_broadcasting(
    "Equal", COMPARES, elements=of_known(2, arithmetic.equal), number=known(lambda a, b: float(a == b))
)
_broadcasting("Greater", COMPARES, number=known(lambda left, right: float(left > right)))
_broadcasting("GreaterOrEqual", COMPARES, number=known(lambda left, right: float(left >= right)))
_broadcasting("Less", COMPARES, number=known(lambda left, right: float(left < right)))
_broadcasting("LessOrEqual", COMPARES, number=known(lambda left, right: float(left <= right)))
_broadcasting("Or", number=arithmetic.either)
_broadcasting("And", number=arithmetic.both)
_broadcasting("Xor Mean Sum BitwiseAnd BitwiseOr BitwiseXor BitShift")
_broadcasting("PRelu", ACTIVATES)
_broadcasting(
    "Where",
    roles=Roles(contents=(1, 2)),
    elements=combined(3, arithmetic.chosen_element),
    number=arithmetic.chosen,
)

_unary("Identity", elements=arithmetic.same_elements)
_unary("Cast", elements=arithmetic.cast_elements)
_unary("Neg", elements=of_known(1, partial(dims.multiply, -1)), number=known(lambda number: -number))
_unary("Sqrt", number=known(arithmetic.root))
_unary("Reciprocal", number=known(arithmetic.inverse))
_unary("Abs", number=known(abs))
_unary("Sign", number=known(lambda number: float((number > 0) - (number < 0))))
_unary("Not", number=known(lambda number: float(not number)))
_unary("Clip", roles=Roles(places=(1, 2)), number=arithmetic.bounded)
_unary("Erf Log IsNaN IsInf Floor Ceil Round Shrink BitwiseNot")
_unary("Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh")
_unary("Relu", ACTIVATES, VANISHES, number=known(lambda number: max(number, 0.0)))
_unary("Exp", ACTIVATES, VANISHES, number=known(arithmetic.exponential))
_unary("Softplus", ACTIVATES, VANISHES, number=known(arithmetic.softplus))
_unary("Sigmoid", ACTIVATES, VANISHES, number=known(arithmetic.sigmoid))
_unary("Tanh", ACTIVATES, number=known(math.tanh))
_unary("Softsign Elu Selu LeakyRelu HardSwish HardSigmoid Mish Celu ThresholdedRelu", ACTIVATES)
_unary("Gelu Swish", ACTIVATES, STANDS_FOR_PATTERN)
for _name in ("Gelu", "QuickGelu", "FastGelu", "BiasGelu"):  # Some have a bias along the last axis.
    _broadcasting(f"com.microsoft.{_name}", ACTIVATES, roles=Roles(alike=(0, 1), learned=(1,)))
