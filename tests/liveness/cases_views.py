"""Strategies of view operators: random factorisations with ones in between, symbolic batches, all spellings."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from onnx import helper

from tests.liveness.masks import Draw
from tests.liveness.one_node import Case
from tests.liveness.strategies import (
    FLOAT,
    batch_axis,
    broadcastable,
    draw_shape,
    floats,
    signed,
    strategy,
    vector,
)


def grouped(draw: Draw, factors: list[int]) -> tuple[int, ...]:
    """The factors, some neighbours multiplied together and some ones inserted."""
    shape: list[int] = []
    for factor in factors:
        if shape and draw(st.booleans()):
            shape[-1] *= factor
        else:
            shape.append(factor)
    for _ in range(draw(st.sampled_from((0, 0, 1, 2)))):
        shape.insert(draw(st.integers(0, len(shape))), 1)
    return tuple(shape)


def reshaped(draw: Draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes of equally many elements."""
    factors = draw(st.lists(st.sampled_from((2, 2, 3, 4, 4)), min_size=1, max_size=4))
    return grouped(draw, factors), grouped(draw, factors)


@strategy("Reshape")
def reshape(draw: Draw, op_type: str) -> Case:
    before, after = reshaped(draw)
    target = list(after)
    for axis in range(min(len(before), len(after))):
        if before[axis] == after[axis] and draw(st.integers(0, 2)) == 0:
            target[axis] = 0
    symbolic = draw(st.booleans())
    inferred = draw(st.integers(0, len(after) - 1)) if draw(st.booleans()) else None
    if symbolic:
        # The batch must end up in an axis that is computed at run time.
        if before[0] < 2 or (after[0] % before[0] and after[0] != 1):
            symbolic = False
        else:
            inferred = next(axis for axis, size in enumerate(after) if size > 1)
            symbolic = after[inferred] % before[0] == 0
    if inferred is not None:
        target[inferred] = -1
    data = floats(draw, before)
    attributes = {} if 0 in target else {"allowzero": draw(st.integers(0, 1))}
    symbolic_axes = {0: (0,)} if symbolic else {}
    return Case(op_type, (data, vector(*target)), attributes, frozenset({1}), symbolic=symbolic_axes)


@strategy("Flatten")
def flatten(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    axis = draw(st.integers(-len(shape), len(shape)))
    return Case(op_type, (floats(draw, shape),), {"axis": axis}, symbolic=batch_axis(draw, shape))


@strategy("Transpose")
def transpose(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    order = draw(st.permutations(range(len(shape))))
    attributes = {} if draw(st.integers(0, 3)) == 0 else {"perm": list(order)}
    return Case(op_type, (floats(draw, shape),), attributes, symbolic=batch_axis(draw, shape))


@strategy("Unsqueeze", "Squeeze")
def squeezes(draw: Draw, op_type: str) -> Case:
    long = draw_shape(draw, 1, 5)
    rank = len(long)
    axes = sorted(draw(st.sets(st.integers(0, rank - 1), min_size=1, max_size=2)))
    kept = [size for axis, size in enumerate(long) if axis not in axes]
    shape = kept if op_type == "Unsqueeze" else [1 if axis in axes else s for axis, s in enumerate(long)]
    spelled = [signed(draw, axis, rank) for axis in axes]
    data = floats(draw, shape)
    if draw(st.booleans()):
        return Case(op_type, (data,), {"axes": spelled}, opset=11)
    if op_type == "Squeeze" and draw(st.integers(0, 3)) == 0:
        return Case(op_type, (data,))
    return Case(
        op_type,
        (data, vector(*spelled)),
        fixed=frozenset({1}),
        symbolic=batch_axis(draw, kept[:1]) if 0 not in axes else {},
    )


@strategy("Expand")
def expand(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    data = broadcastable(draw, shape)
    target = [
        1 if draw(st.integers(0, 2)) == 0 and len(data) == len(shape) and data[i] == n else n
        for i, n in enumerate(shape)
    ]
    short = target[draw(st.integers(0, len(shape))) :] if len(data) == len(shape) else target
    return Case(op_type, (floats(draw, data), vector(*short)), fixed=frozenset({1}))


@strategy("Tile")
def tile(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    repeats = [draw(st.sampled_from((1, 1, 2, 3))) for _ in shape]
    symbolic = batch_axis(draw, shape)
    return Case(op_type, (floats(draw, shape), vector(*repeats)), fixed=frozenset({1}), symbolic=symbolic)


@strategy("ConstantOfShape")
def constant_of_shape(draw: Draw, op_type: str) -> Case:
    value = helper.make_tensor("value", FLOAT, [1], [2.5])
    shape = vector(*draw_shape(draw))
    return Case(op_type, (shape,), {"value": value}, fixed=frozenset({0}), types=(FLOAT,))


@strategy("Resize")
def resize(draw: Draw, op_type: str) -> Case:
    shape = (
        draw(st.integers(1, 2)),
        draw(st.integers(2, 4)),
        draw(st.integers(2, 3)),
        draw(st.integers(2, 3)),
    )
    mode = draw(st.sampled_from(("nearest", "linear")))
    listed = draw(st.sampled_from(([2], [-2], [1, 2], [3, -2])))
    if draw(st.integers(0, 3)) == 0:
        wanted = [draw(st.integers(1, 5)) if axis % 4 == 2 else shape[axis] for axis in listed]
        inputs = (floats(draw, shape), None, None, vector(*wanted))
        return Case(op_type, inputs, {"mode": mode, "axes": listed}, frozenset({3}), opset=18)
    if draw(st.booleans()):
        sizes = np.array((*shape[:2], draw(st.integers(1, 5)), shape[3]), dtype=np.int64)
        return Case(
            op_type, (floats(draw, shape), None, None, sizes), {"mode": mode}, frozenset({3}), opset=13
        )
    scales = np.array((1, 1, draw(st.sampled_from((1, 1.1, 2))), 1), dtype=np.float32)
    return Case(op_type, (floats(draw, shape), None, scales), {"mode": mode}, frozenset({2}), opset=13)
