"""Strategies of contractions: plain, transposed, quantized, fused, and convolutions."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto

from tests.liveness.masks import Array, Draw
from tests.liveness.one_node import Case
from tests.liveness.strategies import (
    FLOAT,
    broadcastable,
    draw_shape,
    floats,
    integers,
    strategy,
)

SIZES = st.integers(1, 4)


def _matmul_shapes(draw: Draw, low: int = 1) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rows, inner, columns = draw(SIZES), draw(SIZES), draw(SIZES)
    batch = draw_shape(draw, 0, 2)
    left, right = draw(st.permutations([batch, broadcastable(draw, batch)]))
    if low == 1 and draw(st.integers(0, 5)) == 0:
        return (
            ((inner,), (*right, inner, columns)) if draw(st.booleans()) else ((*left, rows, inner), (inner,))
        )
    return (*left, rows, inner), (*right, inner, columns)


def _batch(draw: Draw, left: tuple[int, ...], right: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    """The outermost axis of the output, by name in both operands where neither broadcasts it."""
    if len(left) < 3 or left[0] == 1 or draw(st.booleans()):
        return {}
    if len(right) == len(left):
        return {0: (0,), 1: (0,)} if right[0] == left[0] else {}
    return {0: (0,)} if len(right) < len(left) else {}


@strategy("MatMul")
def matmul(draw: Draw, op_type: str) -> Case:
    left, right = _matmul_shapes(draw)
    return Case(op_type, (floats(draw, left), floats(draw, right)), symbolic=_batch(draw, left, right))


@strategy("Gemm")
def gemm(draw: Draw, op_type: str) -> Case:
    return _gemm(draw, op_type, "")


@strategy("FusedGemm", domain="com.microsoft")
def fused_gemm(draw: Draw, op_type: str) -> Case:
    return _gemm(draw, op_type, "com.microsoft")


def _gemm(draw: Draw, op_type: str, domain: str) -> Case:
    rows, inner, columns = draw(SIZES), draw(SIZES), draw(SIZES)
    attributes: dict[str, object] = {"alpha": 0.5, "beta": 2.0}
    attributes |= {name: draw(st.integers(0, 1)) for name in ("transA", "transB")}
    attributes |= {"activation": "Relu"} if domain else {}
    left = (inner, rows) if attributes["transA"] else (rows, inner)
    right = (columns, inner) if attributes["transB"] else (inner, columns)
    inputs: tuple[Array, ...] = (floats(draw, left), floats(draw, right))
    if draw(st.booleans()):
        inputs += (floats(draw, broadcastable(draw, (rows, columns))),)
    return Case(op_type, inputs, attributes, domain=domain)


@strategy("Einsum")
def einsum(draw: Draw, op_type: str) -> Case:
    sizes = {letter: draw(st.integers(1, 3)) for letter in "abcdef"}
    count = draw(st.integers(1, 3))
    terms = ["".join(draw(st.permutations("abcdef"))[: draw(st.integers(1, 3))]) for _ in range(count)]
    used = sorted(set("".join(terms)))
    output = "".join(draw(st.permutations(used))[: draw(st.integers(1, len(used)))])
    arrays = tuple(floats(draw, [sizes[letter] for letter in term]) for term in terms)
    if draw(st.integers(0, 2)) == 0:
        arrays = tuple(
            floats(draw, (*draw_dots, *array.shape))
            for array, draw_dots in zip(arrays, _dots(draw, count), strict=True)
        )
        terms, output = [f"...{term}" for term in terms], f"...{output}"
    separator = draw(st.sampled_from((",", ", ")))
    arrow = draw(st.sampled_from(("->", " -> ")))
    return Case(op_type, arrays, {"equation": f"{separator.join(terms)}{arrow}{output}"})


def _dots(draw: Draw, count: int) -> list[tuple[int, ...]]:
    shape = draw_shape(draw, 1, 2)
    return [shape] * count


@strategy("MatMulInteger")
def matmul_integer(draw: Draw, op_type: str) -> Case:
    left, right = _matmul_shapes(draw, 2)
    inputs: tuple[Array | None, ...] = (
        integers(draw, left, 0, 256, np.uint8),
        integers(draw, right, -128, 128, np.int8),
    )
    zero_point = draw(st.sampled_from(("none", "scalar", "columns")))
    if zero_point == "scalar":
        inputs += (np.array(7, np.uint8), np.array(3, np.int8))
    elif zero_point == "columns" and len(right) == 2:
        inputs += (np.array(7, np.uint8), integers(draw, right[-1:], -3, 4, np.int8))
    return Case(op_type, inputs, types=(TensorProto.INT32,))


@strategy("QLinearMatMul")
def qlinear_matmul(draw: Draw, op_type: str) -> Case:
    left, right = _matmul_shapes(draw, 2)
    columns = right[-1:] if len(right) == 2 and draw(st.booleans()) else ()
    inputs = (
        integers(draw, left, 0, 256, np.uint8),
        np.array(0.01, np.float32),
        np.array(9, np.uint8),
        integers(draw, right, -128, 128, np.int8),
        floats(draw, columns, 0.01, 0.02),
        integers(draw, columns, 0, 1, np.int8),
        np.array(0.02, np.float32),
        np.array(120, np.uint8),
    )
    return Case(op_type, inputs, types=(TensorProto.UINT8,), fixed=frozenset({1, 2, 4, 5, 6, 7}))


@strategy("FusedMatMul", "TransposeMatMul", domain="com.microsoft")
def fused_matmul(draw: Draw, op_type: str) -> Case:
    left, right = _matmul_shapes(draw, 2)
    if op_type == "FusedMatMul" and draw(st.booleans()):
        batch = draw_shape(draw, 1, 2)
        left, right = (*batch, *left[-2:]), (*batch, *right[-2:])
    attributes: dict[str, object] = {"alpha": 0.5} | {
        name: draw(st.integers(0, 1)) for name in ("transA", "transB")
    }
    left = _stored(left, bool(attributes["transA"]))
    right = _stored(right, bool(attributes["transB"]))
    symbolic = _batch(draw, left, right)
    if len(left) == len(right) > 2 and left[:-2] == right[:-2] and op_type == "FusedMatMul":
        for name in ("transBatchA", "transBatchB"):
            attributes[name] = int(draw(st.integers(0, 3)) == 0)
            symbolic = {} if attributes[name] else symbolic
        left = _rotated(left) if attributes.get("transBatchA") else left
        right = _rotated(right) if attributes.get("transBatchB") else right
    return Case(
        op_type,
        (floats(draw, left), floats(draw, right)),
        attributes,
        symbolic=symbolic,
        domain="com.microsoft",
    )


def _stored(shape: tuple[int, ...], transposed: bool) -> tuple[int, ...]:
    return (*shape[:-2], shape[-1], shape[-2]) if transposed else shape


def _rotated(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[-2], *shape[:-2], shape[-1])


@strategy("DynamicQuantizeMatMul", "MatMulIntegerToFloat", domain="com.microsoft")
def quantized_matmul(draw: Draw, op_type: str) -> Case:
    rows, inner, columns = draw(SIZES), draw(SIZES), draw(SIZES)
    width = (columns,) if draw(st.booleans()) else ()
    weight = integers(draw, (inner, columns), -100, 100, np.int8)
    scale, zero_point = floats(draw, width, 0.01, 0.02), integers(draw, width, -3, 4, np.int8)
    bias = floats(draw, (columns,)) if draw(st.booleans()) else None
    if op_type == "DynamicQuantizeMatMul":
        inputs: tuple[Array | None, ...] = (floats(draw, (rows, inner)), weight, scale, zero_point, bias)
        fixed = frozenset({1, 2, 3})
    else:
        data = integers(draw, (rows, inner), 0, 256, np.uint8)
        inputs = (data, weight, np.array(0.01, np.float32), scale, np.array(9, np.uint8), zero_point, bias)
        fixed = frozenset({1, 2, 3, 4, 5})
    return Case(op_type, inputs, types=(FLOAT,), fixed=fixed, domain="com.microsoft")


@strategy("Conv")
def conv(draw: Draw, op_type: str) -> Case:
    return _conv(draw, op_type, "")


@strategy("ConvTranspose")
def conv_transpose(draw: Draw, op_type: str) -> Case:
    spatial, groups = draw(st.integers(1, 2)), draw(st.sampled_from((1, 1, 2)))
    inputs, outputs, kernel = (
        groups * draw(st.integers(1, 2)),
        draw(st.integers(1, 4)),
        draw(st.sampled_from((1, 1, 3))),
    )
    shape = draw(st.sampled_from(("pads", "output_padding", "output_shape", "dilations", "plain")))
    kernel = 3 if shape == "pads" else kernel
    attributes: dict[str, object] = {"group": groups, "strides": [draw(st.sampled_from((1, 1, 2)))] * spatial}
    data, weight = (2, inputs, *[4] * spatial), (inputs, outputs, *[kernel] * spatial)
    attributes |= {"kernel_shape": [kernel] * spatial} if draw(st.booleans()) else {}
    if shape == "dilations":
        attributes["dilations"] = [2] * spatial
    elif shape == "pads":
        attributes["pads"] = [1, 0] * spatial
    elif shape == "output_padding" and attributes["strides"] == [2] * spatial:
        attributes["output_padding"] = [1] * spatial
    elif shape == "output_shape":
        attributes["output_shape"] = [8 if attributes["strides"] == [2] * spatial else 4] * spatial
    bias = (floats(draw, (groups * outputs,)),) if draw(st.booleans()) else ()
    return Case(op_type, (floats(draw, data), floats(draw, weight), *bias), attributes)


@strategy("FusedConv", domain="com.microsoft")
def fused_conv(draw: Draw, op_type: str) -> Case:
    return _conv(draw, op_type, "com.microsoft")


def _conv(draw: Draw, op_type: str, domain: str) -> Case:
    spatial = draw(st.integers(2 if domain else 1, 2))
    groups, per_group = draw(st.sampled_from((1, 1, 2, 3))), draw(st.integers(1, 2))
    outputs = groups * draw(st.integers(1, 3))
    kernel = draw(st.sampled_from((1, 1, 3)))
    attributes: dict[str, object] = {"group": groups}
    pads = draw(st.integers(0, 1))
    if pads or draw(st.booleans()):
        attributes["pads"] = [pads] * (2 * spatial)
    stride = draw(st.integers(1, 2))
    if stride > 1:
        attributes["strides"] = [stride] * spatial
    attributes |= {"kernel_shape": [kernel] * spatial} if draw(st.booleans()) else {}
    if draw(st.booleans()):
        attributes["dilations"] = [1] * spatial if domain else [draw(st.integers(1, 2))] * spatial
    data = floats(draw, (2, groups * per_group, *[5] * spatial))
    inputs: tuple[Array | None, ...] = (data, floats(draw, (outputs, per_group, *[kernel] * spatial)))
    if draw(st.booleans()):
        inputs += (floats(draw, (outputs,)),)
    if domain:
        attributes["activation"] = "Relu"
        size = (5 + 2 * pads - kernel) // stride + 1
        if draw(st.booleans()):
            inputs = (*inputs, *[None] * (3 - len(inputs)), floats(draw, (2, outputs, *[size] * spatial)))
    return Case(op_type, inputs, attributes, domain=domain)


@strategy("GridSample")
def grid_sample(draw: Draw, op_type: str) -> Case:
    batch, channels = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    data, grid = floats(draw, (batch, channels, 3, 4)), floats(draw, (batch, 2, 3, 2), -1.0, 1.0)
    return Case(op_type, (data, grid), {"align_corners": draw(st.integers(0, 1))}, opset=16)
