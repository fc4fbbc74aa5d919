"""Strategies of operators that mix some axes: normalisations, reductions, scans."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.liveness.masks import Array, Draw
from tests.liveness.one_node import Case
from tests.liveness.strategies import (
    FLOAT,
    INT64,
    batch_axis,
    draw_shape,
    floats,
    signed,
    strategy,
    vector,
)


def _axis(draw: Draw, rank: int) -> int:
    return signed(draw, draw(st.integers(0, rank - 1)), rank)


@strategy("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")
def softmax(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    attributes = {} if draw(st.integers(0, 3)) == 0 else {"axis": _axis(draw, len(shape))}
    opset = draw(st.sampled_from((11, 13))) if attributes or len(shape) > 1 else 13
    symbolic = batch_axis(draw, shape)
    if op_type == "LpNormalization":
        opset = 17
    return Case(op_type, (floats(draw, shape),), attributes, symbolic=symbolic, opset=opset)


@strategy("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_normalization(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw, 2)
    axis = draw(st.integers(1, len(shape) - 1))
    whole = op_type == "RMSNormalization" and draw(st.booleans())  # a scale as large as the input
    inputs: tuple[Array, ...] = (floats(draw, shape), floats(draw, shape if whole else shape[axis:]))
    types: tuple[int, ...] = (FLOAT,)
    if op_type == "LayerNormalization":
        inputs += (floats(draw, shape[axis:]),) if draw(st.booleans()) else ()
        types = draw(st.sampled_from(((FLOAT,), (FLOAT,), (FLOAT, FLOAT, FLOAT))))
    attributes = {"axis": signed(draw, axis, len(shape))}
    opset = 23 if op_type == "RMSNormalization" else 17
    symbolic = {} if whole else batch_axis(draw, shape)
    return Case(op_type, inputs, attributes, types=types, symbolic=symbolic, opset=opset)


@strategy("InstanceNormalization", "BatchNormalization")
def per_channel(draw: Draw, op_type: str) -> Case:
    shape = (draw(st.integers(1, 3)), draw(st.integers(2, 4)), *draw_shape(draw, 1, 2))
    count = 2 if op_type == "InstanceNormalization" else 4
    vectors = tuple(floats(draw, shape[1:2], 0.5, 2) for _ in range(count))
    symbolic = batch_axis(draw, shape)
    if op_type == "BatchNormalization" and draw(st.integers(0, 3)) == 0:
        trained = {"training_mode": 1}
        return Case(op_type, (floats(draw, shape), *vectors), trained, types=(FLOAT,) * 3, symbolic=symbolic)
    return Case(op_type, (floats(draw, shape), *vectors), symbolic=symbolic)


@strategy("MeanVarianceNormalization")
def moments(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw, 4, 4)
    listed = sorted(draw(st.sets(st.integers(0, 3), min_size=1, max_size=3)))
    attributes = {"axes": listed} if draw(st.booleans()) else {}
    return Case(op_type, (floats(draw, shape),), attributes, symbolic=batch_axis(draw, shape))


@strategy("AveragePool", "GlobalAveragePool")
def pool(draw: Draw, op_type: str) -> Case:
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 4)), *draw_shape(draw, 1, 2))
    attributes: dict[str, object] = {}
    if op_type == "AveragePool":
        kernel = [draw(st.integers(1, size)) for size in shape[2:]]
        dilations = [
            draw(st.integers(1, 2)) if 2 * size - 1 <= n else 1
            for size, n in zip(kernel, shape[2:], strict=True)
        ]
        attributes = {"kernel_shape": kernel, "dilations": dilations}
        attributes |= {"strides": [draw(st.integers(1, 3)) for _ in kernel]}
        attributes |= {name: draw(st.integers(0, 1)) for name in ("count_include_pad", "ceil_mode")}
        # ONNX Runtime and onnx disagree on the size that SAME makes of dilated windows.
        padding = draw(st.sampled_from(("pads", "SAME_UPPER", "VALID"))) if max(dilations) == 1 else "pads"
        pads = [draw(st.integers(0, size - 1)) for size in kernel * 2]
        attributes |= {"pads": pads} if padding == "pads" else {"auto_pad": padding}
    return Case(op_type, (floats(draw, shape),), attributes, symbolic=batch_axis(draw, shape), opset=19)


@strategy("GroupNormalization")
def group_normalization(draw: Draw, op_type: str) -> Case:
    groups = draw(st.integers(1, 3))
    shape = (draw(st.integers(1, 3)), 2 * groups, *draw_shape(draw, 1, 2))
    opset = draw(st.sampled_from((18, 21)))
    width = groups if opset == 18 else shape[1]
    inputs = (floats(draw, shape), floats(draw, (width,)), floats(draw, (width,)))
    return Case(op_type, inputs, {"num_groups": groups}, blocks={1: 2}, opset=opset)


@strategy(
    *"ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum".split(),
    *"ReduceLogSumExp ReduceSumSquare".split(),
)
def reduce(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    rank = len(shape)
    axes = [signed(draw, a, rank) for a in sorted(draw(st.sets(st.integers(0, rank - 1), max_size=2)))]
    attributes: dict[str, object] = {"keepdims": draw(st.integers(0, 1))}
    data, symbolic = floats(draw, shape, 0.5, 2), batch_axis(draw, shape)
    if draw(st.booleans()):
        if not axes:
            attributes["noop_with_empty_axes"] = draw(st.integers(0, 1))
        inputs = (data, vector(*axes)) if axes or draw(st.booleans()) else (data,)
        return Case(
            op_type, inputs, attributes, fixed=frozenset(range(1, len(inputs))), symbolic=symbolic, opset=18
        )
    attributes |= {"axes": axes} if axes else {}
    return Case(op_type, (data,), attributes, symbolic=symbolic, opset=11)


@strategy("ArgMax", "ArgMin")
def arg(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    attributes = {"axis": _axis(draw, len(shape)), "keepdims": draw(st.integers(0, 1))}
    return Case(op_type, (floats(draw, shape),), attributes, types=(INT64,), symbolic=batch_axis(draw, shape))


@strategy("CumSum")
def cumulative_sum(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    axis = np.array(_axis(draw, len(shape)), dtype=np.int64)
    attributes = {"exclusive": draw(st.integers(0, 1)), "reverse": draw(st.integers(0, 1))}
    return Case(op_type, (floats(draw, shape), axis), attributes, fixed=frozenset({1}))


@strategy("TopK")
def top_k(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    axis = draw(st.integers(0, len(shape) - 1))
    count, data = draw(st.integers(1, shape[axis])), floats(draw, shape)
    symbolic = batch_axis(draw, shape) if axis else {}
    types = (FLOAT, INT64)
    if draw(st.integers(0, 3)) == 0:
        return Case(op_type, (data,), {"axis": axis, "k": count}, types=types, symbolic=symbolic, opset=9)
    attributes = {"axis": signed(draw, axis, len(shape)), "largest": draw(st.integers(0, 1))}
    return Case(op_type, (data, vector(count)), attributes, frozenset({1}), types, symbolic)


@strategy("Trilu")
def triangle(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw, 3)
    inputs: tuple[Array, ...] = (floats(draw, shape),)
    inputs += (np.array(draw(st.integers(-2, 2))),) if draw(st.booleans()) else ()
    attributes = {"upper": draw(st.integers(0, 1))}
    return Case(
        op_type,
        inputs,
        attributes,
        frozenset({1}) if inputs[1:] else frozenset(),
        symbolic=batch_axis(draw, shape),
    )
