"""Attention in bodies of all operators that have any is masked there: some run their bodies as graphs of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, helper, numpy_helper

from onnxheadprune.model.graph.operator import GENERATES
from tests.graphs import toys


def body(name: str, inputs: list[Any], outputs: list[Any]) -> GraphProto:
    """The attention of the toy as a body with its weights in it; it reads `x` and makes `y`."""
    graph = toys.attention().graph
    return helper.make_graph(graph.node, name, inputs, outputs, graph.initializer)


def around(node: Any, stored: dict[str, Any], output: str = "y") -> ModelProto:
    """A model of one node."""
    model = toys.attention()
    graph = helper.make_graph(
        [node],
        "around",
        model.graph.input,
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def stream(name: str) -> Any:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", "sequence", toys.HIDDEN])


def chosen() -> ModelProto:
    other = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "other", [], [stream("z")])
    node = helper.make_node(
        "If", ["yes"], ["y"], name="if", then_branch=body("then", [], [stream("y")]), else_branch=other
    )
    node.output[0] = "out"
    return around(node, {"yes": True}, "out")


def repeated() -> ModelProto:
    turn = helper.make_tensor_value_info("turn", onnx.TensorProto.INT64, [])
    go, on = (helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, []) for name in ("go", "on"))
    inner = body("body", [turn, go, stream("x")], [on, stream("y")])
    inner.node.append(helper.make_node("Identity", ["go"], ["on"]))
    node = helper.make_node("Loop", ["times", "yes", "x"], ["out"], name="loop", body=inner)
    return around(node, {"times": np.array(2), "yes": True}, "out")


def scanned() -> ModelProto:
    inner = body("body", [stream("x"), helper.make_tensor_value_info("step", 1, [])], [stream("y")])
    inner.node.append(helper.make_node("Identity", ["step"], ["unused"]))
    node = helper.make_node("Scan", ["x", "steps"], ["out"], name="scan", body=inner, num_scan_inputs=1)
    return around(node, {"steps": np.ones(2, np.float32)}, "out")


HOLDERS: dict[str, tuple[Callable[[], ModelProto], str]] = {
    "If": (chosen, "0:1"),
    "Loop": (repeated, "0:1"),
    "Scan": (scanned, "0:1"),
}
ELSEWHERE = {"SequenceMap", "FlexAttention", *(name.rpartition(".")[2] for name in GENERATES)}
"""Without attention in their bodies here: sequences that no feed can be made up for, changes of single scores, and
decoders of generation operators, which are refused."""


def test_every_operator_with_bodies_is_here() -> None:
    known = {
        schema.name
        for schema in onnx.defs.get_all_schemas()
        if any(item.type == onnx.defs.OpSchema.AttrType.GRAPH for item in schema.attributes.values())
    }
    assert known <= HOLDERS.keys() | ELSEWHERE
