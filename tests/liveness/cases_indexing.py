"""Strategies of operators that pick or place indices."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.liveness.masks import Array, Draw
from tests.liveness.one_node import Case
from tests.liveness.strategies import (
    FLOAT,
    batch_axis,
    draw_shape,
    floats,
    integers,
    signed,
    strategy,
    vector,
)


@strategy("Slice")
def slices(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    rank = len(shape)
    axes = draw(st.lists(st.integers(0, rank - 1), min_size=1, max_size=2, unique=True))
    starts, ends, steps = [], [], []
    for axis in axes:
        size = shape[axis]
        start = draw(st.integers(0, size - 1))
        stop = draw(st.integers(start + 1, size))
        backwards = draw(st.integers(0, 5)) == 0
        step = draw(st.sampled_from((1, 1, 1, 2)))
        if backwards:
            # From stop - 1 down to start.
            starts.append(stop - 1)
            ends.append(start - 1 if start else -size - 1)
            steps.append(-step)
            continue
        starts.append(start - size if draw(st.booleans()) else start)
        ends.append(2**63 - 1 if stop == size and draw(st.booleans()) else stop)
        steps.append(step)
    symbolic = {0: (0,)} if 0 not in axes and draw(st.booleans()) else {}
    data = floats(draw, shape)
    if set(steps) == {1} and draw(st.booleans()):
        attributes = {"starts": starts, "ends": ends, "axes": [signed(draw, a, rank) for a in axes]}
        return Case(op_type, (data,), attributes, opset=9, symbolic=symbolic)
    inputs: tuple[Array, ...] = (data, vector(*starts), vector(*ends))
    if axes != list(range(len(axes))) or set(steps) != {1} or draw(st.booleans()):
        inputs += (vector(*(signed(draw, axis, rank) for axis in axes)), vector(*steps))
    return Case(op_type, inputs, fixed=frozenset(range(1, len(inputs))), symbolic=symbolic)


@strategy("Gather")
def gather(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    axis = draw(st.integers(0, len(shape) - 1))
    size = shape[axis]
    index_shape = draw(st.sampled_from(((), (1,), (2,), (3,), (4,), (2, 2))))
    distinct = len(index_shape) == 1 and index_shape[0] <= size and draw(st.booleans())
    if distinct:
        indices = np.array(draw(st.permutations(range(size)))[: index_shape[0]], dtype=np.int64)
    else:
        indices = integers(draw, index_shape, -size, size)
    fixed = frozenset({1}) if draw(st.integers(0, 2)) else frozenset()
    symbolic = batch_axis(draw, shape) if axis else {}
    if draw(st.booleans()):
        indices = indices.astype(np.int32)
    attributes = {"axis": signed(draw, axis, len(shape))}
    return Case(op_type, (floats(draw, shape), indices), attributes, fixed, symbolic=symbolic)


@strategy("GatherElements", "ScatterElements")
def along_one_axis(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    axis = draw(st.integers(0, len(shape) - 1))
    smaller = tuple(
        draw(st.integers(1, n)) if a == axis or draw(st.integers(0, 2)) == 0 else n
        for a, n in enumerate(shape)
    )
    attributes = {"axis": signed(draw, axis, len(shape))}
    data = floats(draw, shape)
    if op_type == "GatherElements":
        return Case(op_type, (data, integers(draw, smaller, -shape[axis], shape[axis])), attributes)
    rows = np.argsort(np.random.default_rng(draw(st.integers(0, 99))).random(shape), axis=axis)
    indices = rows[tuple(slice(0, size) for size in smaller)].astype(np.int64)
    if draw(st.booleans()):
        indices -= shape[axis]
    return Case(op_type, (data, indices, floats(draw, smaller)), attributes)


@strategy("GatherND")
def gather_nd(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw, 2)
    batch = draw(st.integers(0, len(shape) - 1))
    depth = draw(st.integers(1, len(shape) - batch))
    middle = draw(st.lists(st.integers(1, 3), min_size=0 if batch else 1, max_size=2))
    index_shape = (*shape[:batch], *middle, depth)
    columns = [integers(draw, index_shape[:-1], -size, size) for size in shape[batch : batch + depth]]
    indices = np.stack(columns, axis=-1)
    fixed = frozenset({1} if draw(st.booleans()) else ())
    return Case(op_type, (floats(draw, shape), indices), {"batch_dims": batch} if batch else {}, fixed)


@strategy("Range")
def number_range(draw: Draw, op_type: str) -> Case:
    step = draw(st.sampled_from((-2, -1, 1, 3)))
    start, count = draw(st.integers(-3, 3)), draw(st.integers(2, 4))
    numbers = (start, start + step * count, step)
    return Case(op_type, tuple(np.array(number) for number in numbers), fixed=frozenset({0, 1, 2}))


@strategy("OneHot")
def marks(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    depth, axis = draw(st.integers(2, 4)), draw(st.integers(0, len(shape)))
    inputs = (integers(draw, shape, -depth, depth), np.array(depth), vector(0, 1))
    return Case(op_type, inputs, {"axis": signed(draw, axis, len(shape) + 1)}, frozenset({1, 2}))


@strategy("ScatterND")
def scatter_nd(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    depth = draw(st.integers(1, len(shape)))
    places = list(np.ndindex(*shape[:depth]))
    chosen = draw(st.permutations(places))[: draw(st.integers(1, min(4, len(places))))]
    indices: Array = np.array(chosen, dtype=np.int64).reshape(len(chosen), depth)
    if len(chosen) == 4 and draw(st.booleans()):
        indices = indices.reshape(2, 2, depth)
    if draw(st.booleans()):
        indices = indices - np.array(shape[:depth])  # counted from the end
    updates = floats(draw, (*indices.shape[:-1], *shape[depth:]))
    # Places that are known say which row is which; then each may keep positions of its own.
    fixed = frozenset({1} if draw(st.booleans()) else ())
    return Case(op_type, (floats(draw, shape), indices, updates), fixed=fixed, types=(FLOAT,))
