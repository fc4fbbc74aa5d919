"""Strategies of element-wise operators: random broadcasts, random domains of definition."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.liveness.masks import Array, Draw
from tests.liveness.one_node import Case
from tests.liveness.strategies import (
    BOOL,
    FLOAT,
    INT64,
    batch_axis,
    broadcastable,
    draw_shape,
    floats,
    integers,
    strategy,
)

POSITIVE = ("Sqrt", "Log", "Reciprocal", "Acosh", "Atanh", "Asin", "Acos")
OPSETS = {"Gelu": 20, "Swish": 24, "Mish": 18, "CastLike": 19, "BitwiseNot": 18}


@strategy(
    *"Identity Relu Gelu Erf Tanh Sigmoid Sqrt Neg Exp Log Abs IsNaN IsInf Softplus Softsign Elu Selu".split(),
    *"LeakyRelu HardSwish HardSigmoid Floor Ceil Round Sign Reciprocal Sin Cos Tan Asin Acos Atan Sinh".split(),
    *"Cosh Asinh Acosh Atanh Swish Mish Celu ThresholdedRelu Shrink".split(),
)
def unary(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    low, high = (0.1, 0.9) if op_type in POSITIVE else (-2.0, 2.0)
    data = floats(draw, shape, low, high) + np.float32(1 if op_type == "Acosh" else 0)
    types = (BOOL,) if op_type.startswith("Is") else ()
    symbolic = batch_axis(draw, shape)
    return Case(op_type, (data,), types=types, symbolic=symbolic, opset=OPSETS.get(op_type, 17))


@strategy("Not", "BitwiseNot")
def unary_bits(draw: Draw, op_type: str) -> Case:
    data = integers(draw, draw_shape(draw), 0, 2, np.bool_ if op_type == "Not" else np.int64)
    return Case(op_type, (data,), opset=18)


@strategy("Cast", "CastLike")
def casts(draw: Draw, op_type: str) -> Case:
    data = floats(draw, draw_shape(draw), -9, 9)
    if op_type == "Cast":
        return Case(op_type, (data,), {"to": INT64}, types=(INT64,))
    return Case(op_type, (data, integers(draw, (), 0, 2)), types=(INT64,), opset=19)


@strategy("Clip")
def clip(draw: Draw, op_type: str) -> Case:
    data = floats(draw, draw_shape(draw))
    low = None if draw(st.booleans()) else np.array(-1, dtype=np.float32)
    return Case(op_type, (data, low, np.array(1, dtype=np.float32)))


def _operands(draw: Draw, count: int, dtype: type = np.float32) -> tuple[Array, ...]:
    shape = draw_shape(draw)
    shapes = [shape, *(broadcastable(draw, shape) for _ in range(count - 1))]
    shapes = list(draw(st.permutations(shapes)))
    if dtype is np.float32:
        return tuple(floats(draw, shape, 0.5, 2) for shape in shapes)
    return tuple(integers(draw, shape, 0 if dtype is np.bool_ else 1, 5, dtype) for shape in shapes)


def _symbolic(draw: Draw, arrays: tuple[Array, ...]) -> dict[int, tuple[int, ...]]:
    """The leading axis of the output, declared by one name wherever it is not broadcast."""
    rank = max(array.ndim for array in arrays)
    if draw(st.booleans()) or rank == 0:
        return {}
    full = [array.ndim == rank and array.shape[0] > 1 for array in arrays]
    return {index: (0,) for index, whole in enumerate(full) if whole}


@strategy("Add", "Sub", "Mul", "Div", "Pow", "PRelu")
def binary(draw: Draw, op_type: str) -> Case:
    arrays = _operands(draw, 2)
    if op_type == "PRelu":
        shape = draw_shape(draw)
        arrays = (floats(draw, shape), floats(draw, broadcastable(draw, shape)))
    return Case(op_type, arrays, symbolic=_symbolic(draw, arrays))


@strategy("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
def compare(draw: Draw, op_type: str) -> Case:
    arrays = _operands(draw, 2)
    return Case(op_type, arrays, types=(BOOL,), symbolic=_symbolic(draw, arrays))


@strategy("And", "Or", "Xor")
def logic(draw: Draw, op_type: str) -> Case:
    arrays = _operands(draw, 2, np.bool_)
    return Case(op_type, arrays, symbolic=_symbolic(draw, arrays))


@strategy("Mod", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift")
def integer_binary(draw: Draw, op_type: str) -> Case:
    arrays = _operands(draw, 2, np.uint64 if op_type == "BitShift" else np.int64)
    attributes = {"direction": "LEFT"} if op_type == "BitShift" else {}
    return Case(op_type, arrays, attributes, symbolic=_symbolic(draw, arrays), opset=18)


@strategy("Max", "Min", "Mean", "Sum")
def variadic(draw: Draw, op_type: str) -> Case:
    # One with a single input is read as an Identity.
    arrays = _operands(draw, draw(st.integers(2, 4)))
    return Case(op_type, arrays, symbolic=_symbolic(draw, arrays))


@strategy("Where")
def where(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    condition, yes, no = draw(
        st.permutations([shape, broadcastable(draw, shape), broadcastable(draw, shape)])
    )
    arrays = (integers(draw, condition, 0, 2, np.bool_), floats(draw, yes), floats(draw, no))
    return Case(op_type, arrays, types=(FLOAT,), symbolic=_symbolic(draw, arrays))


@strategy("Dropout")
def dropout(draw: Draw, op_type: str) -> Case:
    types = (FLOAT, BOOL) if draw(st.booleans()) else (FLOAT,)
    return Case(op_type, (floats(draw, draw_shape(draw)),), types=types)


@strategy("Gelu", "QuickGelu", "FastGelu", "BiasGelu", domain="com.microsoft")
def fused_activation(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw, 2)
    inputs: tuple[Array, ...] = (floats(draw, shape),)
    if op_type == "BiasGelu" or (op_type == "FastGelu" and draw(st.booleans())):
        inputs += (floats(draw, shape[-1:]),)
    return Case(op_type, inputs, symbolic=batch_axis(draw, shape), domain="com.microsoft")
