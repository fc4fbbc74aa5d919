"""Strategies of operators that cut or join: Split, Concat, Pad, If."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from onnx import helper

from tests.liveness.masks import Array, Draw
from tests.liveness.one_node import Case
from tests.liveness.strategies import (
    FLOAT,
    batch_axis,
    draw_shape,
    floats,
    signed,
    strategy,
    vector,
)


@strategy("Split")
def split(draw: Draw, op_type: str) -> Case:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    spelling = draw(st.sampled_from(("input", "attribute", "equal", "num_outputs")))
    if spelling in ("equal", "num_outputs"):
        sizes = [sizes[0]] * len(sizes)
    shape = list(draw_shape(draw))
    axis = draw(st.integers(0, len(shape) - 1))
    shape[axis] = sum(sizes)
    attributes: dict[str, object] = {"axis": signed(draw, axis, len(shape))}
    types = (FLOAT,) * len(sizes)
    data = floats(draw, shape)
    symbolic = batch_axis(draw, shape) if axis else {}
    if spelling == "input":
        return Case(op_type, (data, vector(*sizes)), attributes, frozenset({1}), types, symbolic)
    if spelling == "attribute":
        return Case(op_type, (data,), attributes | {"split": sizes}, types=types, opset=11, symbolic=symbolic)
    if spelling == "num_outputs":
        attributes["num_outputs"] = len(sizes)
        return Case(op_type, (data,), attributes, types=types, opset=18, symbolic=symbolic)
    return Case(op_type, (data,), attributes, types=types, symbolic=symbolic)


@strategy("Concat")
def concat(draw: Draw, op_type: str) -> Case:
    shape = list(draw_shape(draw))
    axis = draw(st.integers(0, len(shape) - 1))
    arrays: list[Array] = []
    for _ in range(draw(st.integers(2, 3))):
        shape[axis] = draw(st.integers(1, 4))
        arrays.append(floats(draw, shape))
    symbolic = dict.fromkeys(range(len(arrays)), (0,)) if axis and draw(st.booleans()) else {}
    return Case(op_type, tuple(arrays), {"axis": signed(draw, axis, len(shape))}, symbolic=symbolic)


@strategy("Pad")
def pad(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    rank = len(shape)
    amounts = [draw(st.sampled_from((0, 0, 1, 2))) for _ in range(2 * rank)]
    data, symbolic = floats(draw, shape), batch_axis(draw, shape)
    value = np.array(1.5, np.float32)
    spelling = draw(st.sampled_from(("attribute", "input", "axes")))
    if spelling == "attribute":
        return Case(op_type, (data,), {"pads": amounts, "value": 1.5}, opset=10, symbolic=symbolic)
    if spelling == "input":
        inputs: tuple[Array | None, ...] = (data, vector(*amounts), value)
        return Case(op_type, inputs, fixed=frozenset({1}), symbolic=symbolic)
    axes = sorted(draw(st.sets(st.integers(0, rank - 1), min_size=1)))
    chosen = [amounts[axis] for axis in axes] + [amounts[axis + rank] for axis in axes]
    inputs = (data, vector(*chosen), value, vector(*(signed(draw, axis, rank) for axis in axes)))
    return Case(op_type, inputs, fixed=frozenset({1, 3}), opset=18, symbolic=symbolic)


@strategy("If")
def if_node(draw: Draw, op_type: str) -> Case:
    shape = draw_shape(draw)
    outer = {"a": floats(draw, shape), "b": floats(draw, shape)}
    branches = {}
    for name, operator in (("then_branch", "Add"), ("else_branch", "Mul")):
        nodes = [
            helper.make_node(operator, ["a", "b"], ["mixed"]),
            helper.make_node("Neg", ["a"], ["first"]),
            helper.make_node("Tanh", ["mixed"], ["second"]),
        ]
        infos = [helper.make_tensor_value_info(output, FLOAT, shape) for output in ("first", "second")]
        branches[name] = helper.make_graph(nodes, name, [], infos)
    condition = np.array(draw(st.booleans()))
    return Case(op_type, (condition,), branches, types=(FLOAT, FLOAT), outer=outer)
