"""Strategies of quantization: per tensor, per axis, blocked; and the quantized arithmetic of ONNX Runtime."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto

from tests.liveness.masks import Array, Draw
from tests.liveness.one_node import Case
from tests.liveness.strategies import FLOAT, broadcastable, draw_shape, floats, integers, signed, strategy

UINT8 = TensorProto.UINT8
SCALE, ZERO_POINT = np.array(0.02, np.float32), np.array(120, np.uint8)


@strategy("QuantizeLinear", "DequantizeLinear")
def linear(draw: Draw, op_type: str) -> Case:
    return _linear(draw, op_type, "")


@strategy("QuantizeLinear", "DequantizeLinear", domain="com.microsoft")
def microsoft_linear(draw: Draw, op_type: str) -> Case:
    return _linear(draw, op_type, "com.microsoft")


def _linear(draw: Draw, op_type: str, domain: str) -> Case:
    shape = draw_shape(draw)
    axis = draw(st.integers(0, len(shape) - 1))
    kinds = ("tensor", "axis") if domain else ("tensor", "axis", "block")
    kind = draw(st.sampled_from(kinds))
    attributes: dict[str, object] = {} if kind == "tensor" else {"axis": signed(draw, axis, len(shape))}
    scale_shape: tuple[int, ...] = () if kind == "tensor" else (shape[axis],)
    if kind == "block":
        attributes["block_size"] = block = draw(
            st.sampled_from([n for n in (1, 2, 4) if shape[axis] % n == 0])
        )
        scale_shape = tuple(n // block if a == axis else n for a, n in enumerate(shape))
    scale = floats(draw, scale_shape, 0.01, 0.1)
    zero_point = integers(draw, scale_shape, 100, 140, np.uint8)
    quantizes = op_type == "QuantizeLinear"
    data: Array = floats(draw, shape) if quantizes else integers(draw, shape, 0, 256, np.uint8)
    types = (UINT8 if quantizes else FLOAT,)
    return Case(op_type, (data, scale, zero_point), attributes, types=types, opset=21, domain=domain)


@strategy("QLinearAdd", "QLinearMul", domain="com.microsoft")
def binary(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    shapes = draw(st.permutations([shape, broadcastable(draw, shape)]))
    left, right = (integers(draw, shape, 0, 256, np.uint8) for shape in shapes)
    inputs = (left, SCALE, ZERO_POINT, right, SCALE, ZERO_POINT, SCALE, ZERO_POINT)
    return Case(op_type, inputs, fixed=frozenset({1, 2, 4, 5, 6, 7}), domain="com.microsoft")


@strategy("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", domain="com.microsoft")
def unary(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    data = integers(draw, shape, 0, 256, np.uint8)
    attributes: dict[str, object] = {}
    if op_type == "QLinearSoftmax":
        attributes = {"axis": draw(st.integers(0, len(shape) - 1)), "opset": draw(st.sampled_from((11, 13)))}
    inputs = (data, SCALE, ZERO_POINT, np.array(1 / 256, np.float32), np.array(0, np.uint8))
    return Case(op_type, inputs, attributes, frozenset({1, 2, 3, 4}), domain="com.microsoft")


@strategy("QLinearConcat", domain="com.microsoft")
def concat(draw: Draw, op_type: str) -> Case:
    shape = list(draw_shape(draw))
    axis = draw(st.integers(0, len(shape) - 1))
    inputs: tuple[Array, ...] = (SCALE, ZERO_POINT)
    pieces = draw(st.integers(1, 3))
    for _ in range(pieces):
        shape[axis] = draw(st.integers(1, 4))
        inputs += (integers(draw, shape, 0, 256, np.uint8), SCALE, ZERO_POINT)
    fixed = frozenset(index for index in range(len(inputs)) if index < 2 or (index - 2) % 3)
    return Case(op_type, inputs, {"axis": axis}, fixed, (UINT8,), domain="com.microsoft")


@strategy("QGemm", domain="com.microsoft")
def gemm(draw: Draw, op_type: str) -> Case:
    rows, inner, columns = (draw(st.integers(1, 4)) for _ in range(3))
    transposed, turned = draw(st.integers(0, 1)), draw(st.integers(0, 1))
    width = (columns,) if draw(st.booleans()) else ()
    weight = integers(draw, (columns, inner) if transposed else (inner, columns), -100, 100, np.int8)
    bias = integers(draw, (columns,), -50, 50, np.int32) if draw(st.booleans()) else None
    inputs: tuple[Array | None, ...] = (
        integers(draw, (inner, rows) if turned else (rows, inner), 0, 256, np.uint8),
        SCALE,
        ZERO_POINT,
        weight,
    )
    inputs += (floats(draw, width, 0.01, 0.02), integers(draw, width, 0, 1, np.int8), bias)
    types: tuple[int, ...] = (FLOAT,)
    if draw(st.booleans()):
        inputs += (SCALE, ZERO_POINT)
        types = (UINT8,)
    fixed = frozenset({1, 2, 3, 4, 5, 6, 7, 8})
    attributes = {"transA": turned, "transB": transposed}
    return Case(op_type, inputs, attributes, fixed, types, domain="com.microsoft")


@strategy("MatMulNBits", domain="com.microsoft")
def n_bits(draw: Draw, op_type: str) -> Case:
    bits = draw(st.sampled_from((4, 4, 8)))
    block, blocks, columns = draw(st.sampled_from((16, 32))), draw(st.integers(1, 3)), draw(st.integers(1, 6))
    inner = block * blocks
    data = floats(draw, (*draw_shape(draw, 1, 2), inner))
    scale_shape = draw(st.sampled_from(((columns * blocks,), (columns, blocks))))
    inputs: tuple[Array | None, ...] = (
        data,
        integers(draw, (columns, blocks, block * bits // 8), 0, 256, np.uint8),
        floats(draw, scale_shape, 0.01, 0.1),
    )
    bytes_per_column = (blocks * bits + 7) // 8
    zero_shape = (columns * bytes_per_column,) if len(scale_shape) == 1 else (columns, bytes_per_column)
    zero_points = integers(draw, zero_shape, 0, 256, np.uint8) if draw(st.booleans()) else None
    bias = floats(draw, (columns,)) if draw(st.booleans()) else None
    if zero_points is not None or bias is not None:
        inputs += (zero_points,)
    if bias is not None:
        inputs += (None, bias)
    attributes = {"K": inner, "N": columns, "bits": bits, "block_size": block}
    return Case(op_type, inputs, attributes, frozenset({1, 2, 3, 5}), domain="com.microsoft")


@strategy("ConvInteger", "QLinearConv")
def integer_conv(draw: Draw, op_type: str) -> Case:
    groups, per_group = draw(st.sampled_from((1, 2))), draw(st.integers(1, 2))
    outputs, kernel = groups * draw(st.integers(1, 3)), draw(st.sampled_from((1, 3)))
    data = integers(draw, (2, groups * per_group, 5, 5), 0, 256, np.uint8)
    per_channel = draw(st.booleans())
    attributes: dict[str, object] = {"group": groups, "strides": [draw(st.integers(1, 2))] * 2}
    attributes |= {"pads": [draw(st.integers(0, 1))] * 4, "dilations": [draw(st.integers(1, 2))] * 2}
    attributes |= {"kernel_shape": [kernel] * 2} if draw(st.booleans()) else {}
    if op_type == "ConvInteger":
        weight = integers(draw, (outputs, per_group, kernel, kernel), 0, 256, np.uint8)
        inputs: tuple[Array | None, ...] = (data, weight, ZERO_POINT)
        return Case(op_type, inputs, attributes, types=(TensorProto.INT32,), fixed=frozenset({2}))
    weight = integers(draw, (outputs, per_group, kernel, kernel), -20, 20, np.int8)
    scale = floats(draw, (outputs,) if per_channel else (), 0.01, 0.1)
    zero = np.zeros((outputs,) if per_channel else (), np.int8)
    bias = integers(draw, (outputs,), -900, 900, np.int32)
    inputs = (data, SCALE, ZERO_POINT, weight, scale, zero, SCALE, ZERO_POINT, bias)
    return Case(op_type, inputs, attributes, types=(UINT8,), fixed=frozenset({1, 2, 4, 5, 6, 7}))
