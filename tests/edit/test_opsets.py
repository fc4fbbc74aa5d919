"""Every kind of node that is written, in every opset that ONNX Runtime runs: it means the same, or it is refused."""

from __future__ import annotations

import ast
import itertools
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from onnxheadprune import RefusedError, prune
from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import Attribute
from tests import sources
from tests.graph_text import model_of
from tests.graphs.opsets import ADDED, ATTENTION, OPSETS, PLAIN
from tests.liveness.masks import Array
from tests.liveness.one_node import run

LONG, SQUARE = np.array([2, 3, 2]), np.array([[1.5, -2.0], [0.25, 4.0]], np.float32)
SHAPES = np.array([2, 3, 4]), np.array([2, 1, 4])
LEARNED = np.array([2, 4], np.float32), np.array([0, 1], np.float32)


NORM: dict[str, Attribute] = {"axis": -1, "epsilon": 1e-12}
Inputs: TypeAlias = tuple[Array | np.generic, ...]
EXAMPLES: dict[str, list[tuple[Inputs, dict[str, Attribute], Array]]] = {
    "Add": [(SHAPES, {}, np.array([4, 4, 8])), ((SQUARE, SQUARE[0]), {}, SQUARE + SQUARE[0])],
    "Sub": [(SHAPES, {}, np.array([0, 2, 0]))],
    "Mul": [(SHAPES, {}, np.array([4, 3, 16])), ((SQUARE, SQUARE[:1]), {}, SQUARE * SQUARE[:1])],
    "Div": [(SHAPES, {}, np.array([1, 3, 1]))],
    "Max": [((SQUARE, SQUARE[::-1]), {}, np.maximum(SQUARE, SQUARE[::-1]))],
    "Min": [((SQUARE, SQUARE[::-1]), {}, np.minimum(SQUARE, SQUARE[::-1]))],
    "Less": [((SHAPES[1], SHAPES[0]), {}, np.array([False, True, False]))],
    "Where": [((np.array([True, False, True]), *SHAPES), {}, np.array([2, 1, 4]))],
    "Cast": [((LONG,), {"to": TensorProto.FLOAT}, LONG.astype(np.float32))],
    "QuantizeLinear": [((SQUARE, np.float32(0.5), np.uint8(9)), {}, np.array([[12, 5], [9, 17]], np.uint8))],
    "Identity": [((SQUARE,), {}, SQUARE)],
    "Shape": [((SQUARE,), {}, np.array([2, 2]))],
    "Transpose": [((SQUARE,), {"perm": (1, 0)}, SQUARE.T)],
    "Gather": [((SQUARE, np.array([1, 1, 0])), {"axis": 1}, SQUARE[:, [1, 1, 0]])],
    "Concat": [((LONG, LONG[:1]), {"axis": 0}, np.array([2, 3, 2, 2]))],
    "Reshape": [((SQUARE, np.array([4, 1])), {}, SQUARE.reshape(4, 1))],
    "Expand": [
        ((SQUARE[0], LONG), {}, np.broadcast_to(SQUARE[0], (2, 3, 2))),
        ((SQUARE[:, :1], np.array([4, 2, 3])), {}, np.broadcast_to(SQUARE[:, :1], (4, 2, 3))),
        ((SQUARE[0], np.array([2, 0, 2])), {}, np.zeros((2, 0, 2), np.float32)),
    ],
    "LayerNormalization": [
        ((np.array([[1, -1], [5, 1]], np.float32), *LEARNED), NORM, np.array([[2, -3], [2, -3]], np.float32))
    ],
    "SimplifiedLayerNormalization": [
        ((np.array([[1, -1]], np.float32), LEARNED[0]), NORM, np.array([[2, -4]], np.float32))
    ],
}
"""Per operator that is written what it reads, its attributes, and what it gives."""
LATER = {"Expand": 8, "Max": 8, "Min": 8, "Less": 9, "Where": 9, "QuantizeLinear": 10}
"""Operators that older opsets lack, or lack for whole numbers."""


def test_every_operator_that_is_written_has_an_example() -> None:
    calls = (node for path in sources.FILES for node in sources.nodes(path) if isinstance(node, ast.Call))
    written = {
        call.args[1].value
        for call in calls
        if ast.unparse(call.func).endswith(("nodes.new", "_insert")) and len(call.args) > 1
        if isinstance(call.args[1], ast.Constant)
    }
    assert written and written <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_new_node_means_the_same_in_every_opset_that_has_it(name: str) -> None:
    for opset, (inputs, attributes, want) in itertools.product(OPSETS, EXAMPLES[name]):
        feed = {f"x{number}": np.asarray(array) for number, array in enumerate(inputs)}
        edit = nodes.new("", name, tuple(feed), "y", **attributes)
        if opset < LATER.get(name, 0):
            with pytest.raises(RefusedError, match=f"y needs a new {name} .* the model has opset {opset}"):
                nodes.as_proto(edit, opset)
            continue
        made = [nodes.as_proto(edit, opset)]
        np.testing.assert_array_equal(run(_model(made, feed, want, opset), feed)["y"], want)


def _model(made: list[onnx.NodeProto], feed: dict[str, Array], want: Array, opset: int) -> ModelProto:
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feed.items()
    ]
    output = helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(want.dtype), want.shape)
    graph = helper.make_graph(made, "g", infos, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    # Norms are the runtime's where the standard has none.
    if all(onnx.defs.has(node.op_type, max_inclusive_version=opset) for node in made):
        onnx.checker.check_model(model, full_check=True)
    return model


FLAT = """shape = Shape (x) batch = Gather <axis = 0> (shape, zero) seq = Gather <axis = 0> (shape, one)
    folded = Mul (batch, heads) flat = Concat <axis = 0> (seq, folded, size)
    """ + "".join(
    f"{n}m = Transpose <perm = [1, 0, 2]> ({n}x) {n}r = Reshape ({n}m, flat) {n} = Transpose <perm = [1, 0, 2]> ({n}r) "
    for n in "qkv"
)
UNFOLD = """ct = Transpose <perm = [1, 0, 2]> (c) width = Mul (heads, size) back = Concat <axis = 0> (seq, batch, width)
    unfolded = Reshape (ct, back) merged = Transpose <perm = [1, 0, 2]> (unfolded)"""
COMPUTED = """ct = Transpose <perm = [0, 2, 1, 3]> (c) like = Shape (x) target = Add (like, wider)
    merged = Reshape (ct, target)"""
FOLDED = {"split": FLAT, "merge": UNFOLD, "turned": "0, 2, 1", "last": 2}
CUTS: dict[str, tuple[dict[str, Any], list[int]]] = {
    "one head": ({"tail": ADDED}, [1]),
    "heads folded into the batch": (FOLDED | {"tail": ADDED}, [1, 3]),
    "a target that is computed": ({"merge": COMPUTED, "tail": ADDED}, [0]),
    "keys that are mixed elsewhere": (
        {"outputs": ", float[n, h, s, d] z", "tail": ADDED + " z = Softmax <axis = 1> (k)"},
        [1],
    ),
    "folded keys that are mixed elsewhere": (
        FOLDED | {"outputs": ", float[n, s, d] z", "tail": ADDED + " z = Softmax <axis = 0> (k)"},
        [1],
    ),
    "all heads": ({"tail": ADDED}, [0, 1, 2, 3]),
    "all heads, nothing is added": ({"tail": "y = Tanh (o)"}, [0, 1, 2, 3]),
    "all heads but a bias": ({"tail": "ob = Add (o, bo) y = Tanh (ob)"}, [0, 1, 2, 3]),
    "all heads, the output": ({"tail": "y = Identity (o)"}, [0, 1, 2, 3]),
}
"""What differs from the plain block, and which heads go."""
NEEDS = {
    "a target that is computed": LATER["Where"],
    "all heads, nothing is added": LATER["Expand"],
    "all heads but a bias": LATER["Expand"],
    "all heads, the output": LATER["Expand"],
}
"""The opset that a cut needs."""


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", CUTS)
def test_a_cut_is_proven_in_every_opset(name: str, opset: int) -> None:
    parts, gone = CUTS[name]
    model = model_of(ATTENTION.format(opset=opset, **(PLAIN | parts)))
    if opset < NEEDS.get(name, 0):
        with pytest.raises(RefusedError, match=f"needs a new .* the model has opset {opset}"):
            prune(model, heads={0: gone})
        return
    result = prune(model, heads={0: gone})
    assert result.validation is not None and result.validation.passed
    onnx.checker.check_model(result.model, full_check=True)


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
def test_a_fused_block_runs_in_every_opset(opset: int) -> None:
    model = model_of(ATTENTION.format(opset=opset, **(PLAIN | {"tail": ADDED})))
    result = prune(model, heads={0: [1]}, fuse="contrib")
    assert result.validation is not None and result.validation.passed
