"""Every kind of node that is written, in every opset that ONNX Runtime runs: it means the same, or it is refused."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxheadprune import prune
from onnxheadprune.choosing.gradients.differentiate import differentiate
from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import AddConstant, InsertNode
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.graph.view import Node
from onnxheadprune.operators import view_of
from tests.graph_text import model_of
from tests.liveness.masks import Array
from tests.liveness.one_node import run

FIRST = 7
"""What ONNX Runtime promises to run."""


def _runs(opset: int) -> bool:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> g (float[1] x) => (float[1] y) {{ y = Mul (x, x) }}'
    )
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


OPSETS = [opset for opset in range(FIRST, onnx.defs.onnx_opset_version() + 1) if _runs(opset)]
LONG, SQUARE = np.array([2, 3, 2]), np.array([[1.5, -2.0], [0.25, 4.0]], np.float32)
SHAPES = np.array([2, 3, 4]), np.array([2, 1, 4])
LEARNED = np.array([2, 4], np.float32), np.array([0, 1], np.float32)


def _skip(operator: str) -> Node:
    """An operator that adds and normalizes."""
    text = f"""<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
    g (float[2, 2] x, float[2] w) => (float[2, 2] y) {{ y = com.microsoft.{operator}(x, x, w) }}"""
    (node,) = view_of(model_of(text)).nodes
    return node


EXAMPLES: dict[str, list[tuple[tuple[Any, ...], Array]]] = {
    "add": [((*SHAPES, "y"), np.array([4, 4, 8])), ((SQUARE, SQUARE[0], "y"), SQUARE + SQUARE[0])],
    "subtract": [((*SHAPES, "y"), np.array([0, 2, 0]))],
    "multiply": [((*SHAPES, "y"), np.array([4, 3, 16])), ((SQUARE, SQUARE[:1], "y"), SQUARE * SQUARE[:1])],
    "divide": [((*SHAPES, "y"), np.array([1, 3, 1]))],
    "larger": [((SQUARE, SQUARE[::-1], "y"), np.maximum(SQUARE, SQUARE[::-1]))],
    "smaller": [((SQUARE, SQUARE[::-1], "y"), np.minimum(SQUARE, SQUARE[::-1]))],
    "less": [((SHAPES[1], SHAPES[0], "y"), np.array([False, True, False]))],
    "choose": [((np.array([True, False, True]), *SHAPES, "y"), np.array([2, 1, 4]))],
    "cast": [((LONG, TensorProto.FLOAT, "y"), LONG.astype(np.float32))],
    "quantize": [((SQUARE, np.float32(0.5), np.uint8(9), "y"), np.array([[12, 5], [9, 17]], np.uint8))],
    "same": [((SQUARE, "y"), SQUARE)],
    "shape_of": [((SQUARE, "y"), np.array([2, 2]))],
    "transpose": [((SQUARE, (1, 0), "y"), SQUARE.T)],
    "gather": [((SQUARE, np.array([1, 1, 0]), 1, "y"), SQUARE[:, [1, 1, 0]])],
    "concat": [(((LONG, LONG[:1]), "y"), np.array([2, 3, 2, 2]))],
    "reshape": [((SQUARE, np.array([4, 1]), "y"), SQUARE.reshape(4, 1))],
    "expand": [
        ((SQUARE[0], LONG, "y"), np.broadcast_to(SQUARE[0], (2, 3, 2))),
        ((np.float32(-np.inf), LONG, "y"), np.full((2, 3, 2), -np.inf, np.float32)),
        ((SQUARE[:, :1], np.array([4, 2, 3]), "y"), np.broadcast_to(SQUARE[:, :1], (4, 2, 3))),
        ((np.int32(7), LONG, "y"), np.full((2, 3, 2), 7, np.int32)),
        ((SQUARE[0], np.array([2, 0, 2]), "y"), np.zeros((2, 0, 2), np.float32)),
    ],
    "normalized": [
        (
            (_skip("SkipLayerNormalization"), np.array([[1, -1], [5, 1]], np.float32), LEARNED, "y"),
            np.array([[2, -3], [2, -3]], np.float32),
        ),
        (
            (_skip("SkipSimplifiedLayerNormalization"), np.array([[1, -1]], np.float32), LEARNED[:1], "y"),
            np.array([[2, -4]], np.float32),
        ),
    ],
    "tile": [((SQUARE, np.array([1, 2]), "y"), np.tile(SQUARE, (1, 2)))],
}
"""Per function that writes one node its arguments behind `before`, arrays for names, and what the node gives."""
LATER = {"Max": 8, "Min": 8, "Where": 9, "QuantizeLinear": 10}
"""Operators that older opsets have nothing alike for."""
WRITERS = {
    name: function
    for name, function in vars(nodes).items()
    if inspect.isfunction(function) and inspect.signature(function).return_annotation == "InsertNode"
}


def test_every_writer_has_an_example() -> None:
    assert set(EXAMPLES) == set(WRITERS)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_new_node_means_the_same_in_every_opset(name: str, opset: int) -> None:
    for arguments, want in EXAMPLES[name]:
        feed: dict[str, Array] = {}

        def named(argument: Any, feed: dict[str, Array] = feed) -> Any:
            if isinstance(argument, tuple) and any(isinstance(item, np.ndarray) for item in argument):
                return tuple(named(item) for item in argument)
            if not isinstance(argument, (np.ndarray, np.generic)):
                return argument
            feed[f"x{len(feed)}"] = np.asarray(argument)
            return f"x{len(feed) - 1}"

        edit: InsertNode = WRITERS[name]("", *map(named, arguments))
        if edit.op_type in LATER and opset < LATER[edit.op_type]:
            with pytest.raises(RefusedError, match=f"the model has opset {opset}"):
                nodes.as_protos(edit, opset)
            continue
        made = nodes.as_protos(edit, opset)
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


@pytest.mark.parametrize("opset", OPSETS)
def test_a_part_of_a_list_in_every_opset(opset: int) -> None:
    made = nodes.cut_list("", ("", opset), "x", (1, 3), "y")
    feed = {"x": np.arange(5)} | {
        edit.name: np.array(edit.values) for edit in made if isinstance(edit, AddConstant)
    }
    written = [node for edit in made if isinstance(edit, InsertNode) for node in nodes.as_protos(edit, opset)]
    read = {name: array for name, array in feed.items() if name in written[0].input}
    np.testing.assert_array_equal(run(_model(written, read, np.arange(2), opset), read)["y"], [1, 2])


@pytest.mark.parametrize("opset", OPSETS)
def test_noise_in_every_opset(opset: int) -> None:
    made = nodes.with_noise(("", opset), "x0", TensorProto.FLOAT, 1e-3, 1, "y")
    written = [node for edit in made for node in nodes.as_protos(edit, opset)]
    got = run(_model(written, {"x0": SQUARE}, SQUARE, opset), {"x0": SQUARE})["y"]
    assert 0 < np.abs(got - SQUARE).max() <= 1e-3 * np.abs(SQUARE).max() * 1.01


ATTENTION = """
<ir_version: 8, opset_import: ["": {opset}]>
attention (float[batch, seq, 6] x{inputs}) => (float[batch, seq, 6] y{outputs})
<float[6, 8] wq, float[6, 8] wk, float[6, 8] wv, float[8, 6] wo, float[6] bo, float scale = {{0.5}},
 int64[4] split = {{0, 0, 4, 2}}, int64[3] merge = {{0, 0, 8}}, int64[1] zero = {{0}}, int64[1] one = {{1}},
 int64[1] heads = {{4}}, int64[1] size = {{2}}, int64[3] wider = {{0, 0, 2}}>
{{
    qx = MatMul (x, wq) kx = MatMul (x, wk) vx = MatMul (x, wv)
    {split}
    kt = Transpose <perm = [{turned}]> (k)
    scores = MatMul (q, kt) scaled = Mul (scores, scale) p = Softmax <axis = {last}> (scaled)
    c = MatMul (p, v)
    {merge}
    o = MatMul (merged, wo)
    {tail}
}}"""
SPLIT = "".join(f"{n}r = Reshape ({n}x, split) {n} = Transpose <perm = [0, 2, 1, 3]> ({n}r) " for n in "qkv")
FLAT = """shape = Shape (x) batch = Gather <axis = 0> (shape, zero) seq = Gather <axis = 0> (shape, one)
    folded = Mul (batch, heads) flat = Concat <axis = 0> (seq, folded, size)
    """ + "".join(
    f"{n}m = Transpose <perm = [1, 0, 2]> ({n}x) {n}r = Reshape ({n}m, flat) {n} = Transpose <perm = [1, 0, 2]> ({n}r) "
    for n in "qkv"
)
MERGE = "ct = Transpose <perm = [0, 2, 1, 3]> (c) merged = Reshape (ct, merge)"
UNFOLD = """ct = Transpose <perm = [1, 0, 2]> (c) width = Mul (heads, size) back = Concat <axis = 0> (seq, batch, width)
    unfolded = Reshape (ct, back) merged = Transpose <perm = [1, 0, 2]> (unfolded)"""
COMPUTED = """ct = Transpose <perm = [0, 2, 1, 3]> (c) like = Shape (x) target = Add (like, wider)
    merged = Reshape (ct, target)"""
PLAIN = {"inputs": "", "outputs": "", "split": SPLIT, "merge": MERGE, "turned": "0, 1, 3, 2", "last": 3}
ADDED = "y = Add (x, o)"
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


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", CUTS)
def test_a_cut_is_proven_in_every_opset(name: str, opset: int) -> None:
    parts, gone = CUTS[name]
    model = model_of(ATTENTION.format(opset=opset, **(PLAIN | parts)))
    result = prune(model, heads={0: gone})
    assert result.validation is not None and result.validation.passed
    onnx.checker.check_model(result.model, full_check=True)


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
def test_a_fused_block_runs_in_every_opset(opset: int) -> None:
    model = model_of(ATTENTION.format(opset=opset, **(PLAIN | {"tail": ADDED})))
    result = prune(model, heads={0: [1]}, fuse="contrib")
    assert result.validation is not None and result.validation.passed


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
def test_gradients_run_in_every_opset(opset: int) -> None:
    tail = (
        ADDED
        + " squares = Mul (y, y) flat_list = Flatten <axis = 0> (squares) loss = MatMul (flat_list, ones)"
    )
    model = model_of(
        ATTENTION.format(opset=opset, **(PLAIN | {"tail": tail})).replace("batch, seq, 6", "1, 4, 6"),
        given={"ones": np.ones((24, 1), np.float32)},
    )
    made = differentiate(model, "loss", ["wq", "wo"]).model
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    feed = {"x": np.ones((1, 4, 6), np.float32)} | stored
    got = run(made, {info.name: feed[info.name] for info in made.graph.input})
    assert all(np.isfinite(array).all() for array in got.values())
