"""Local functions come out inlined, as runtimes do it themselves: heads of one call are not those of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import ModelProto, helper

from onnxheadprune import ModelError, plan_pruning, prune, validate
from tests.graphs import toys

DOMAIN = "local"
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]


def function(name: str, nodes: list[Any], inputs: list[str], outputs: list[str]) -> Any:
    made = helper.make_function(DOMAIN, name, inputs, outputs, nodes, OPSETS)
    made.doc_string = f"doc of {name}"
    made.metadata_props.add(key="kept", value=name)
    return made


def with_functions(*, softmax: bool = False, split: bool = False) -> ModelProto:
    """Attention whose residual (and softmax, and splitting into heads) are calls of functions."""
    model = toys.attention(extra_weight=40_000)
    functions = [
        function("Plus", [helper.make_node("Add", ["a", "b"], ["c"])], ["a", "b"], ["c"]),
        function("Twice", [helper.make_node("Plus", ["a", "a"], ["c"], domain=DOMAIN)], ["a"], ["c"]),
        function("Unused", [helper.make_node("Neg", ["a"], ["b"])], ["a"], ["b"]),
        function("Soft", [helper.make_node("Softmax", ["a"], ["b"], axis=-1)], ["a"], ["b"]),
        function(
            "Split",
            [
                helper.make_node("Reshape", ["a", "shape"], ["r"]),
                helper.make_node("Transpose", ["r"], ["b"], perm=[0, 2, 1, 3]),
            ],
            ["a", "shape"],
            ["b"],
        ),
    ]
    nodes = []
    for node in model.graph.node:
        if node.output[0] == "y":
            nodes += [
                helper.make_node("Plus", list(node.input), ["sum"], domain=DOMAIN),
                helper.make_node("Twice", ["sum"], ["y"], domain=DOMAIN),
            ]
        elif softmax and node.op_type == "Softmax":
            nodes.append(helper.make_node("Soft", list(node.input), list(node.output), domain=DOMAIN))
        elif split and node.output[0] == "v_split":
            nodes.append(helper.make_node("Split", list(node.input), ["v_heads"], domain=DOMAIN))
        elif not (split and node.output[0] == "v_heads"):
            nodes.append(node)
    made = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(made)
    model.functions.extend(functions)
    model.opset_import.append(OPSETS[1])
    model.ir_version = 10
    return model


@pytest.mark.parametrize(
    "imports", [[(DOMAIN, 23)], [("", 13)], [("", 18)], [("", 17), ("more", 1)], [("", 17)]]
)
def test_functions_that_import_other_versions_are_inlined(
    tmp_path: Path, imports: list[tuple[str, int]]
) -> None:
    """ONNX's inliner leaves them out without a word, and with them what they compute."""
    model = with_functions(split=True)
    for item in model.functions:
        del item.opset_import[:]
        item.opset_import.extend(helper.make_opsetid(*pair) for pair in imports)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    result = prune(path, tmp_path / "o.onnx", heads="0:1", provider="cpu")
    assert result.validation is not None and result.validation.passed


def test_functions_that_mean_another_operator_are_refused() -> None:
    """Softmax flattened all axes behind its own up to version 12; runtimes read such a body in two ways."""
    model = with_functions(softmax=True)
    soft = model.functions[3]
    soft.node[0].attribute[0].i, soft.opset_import[0].version = 1, 12
    with pytest.raises(
        ModelError,
        match="'Soft' imports version 12 of ONNX's operators and the model version 17, in which Softmax",
    ):
        plan_pruning(model, heads="0:1")


def test_nodes_in_any_order_come_out_sorted(tmp_path: Path) -> None:
    """Some converters append nodes at the end."""
    model = toys.attention()
    moved = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    moved.append(moved.pop(0))
    del model.graph.node[:]
    model.graph.node.extend(moved)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    prune(tmp_path / "m.onnx", tmp_path / "o.onnx", heads="0:1", validate=False)
    onnx.checker.check_model(onnx.load(tmp_path / "o.onnx"))
    assert validate(tmp_path / "m.onnx", tmp_path / "o.onnx", provider="cpu").passed
