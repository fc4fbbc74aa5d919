"""Local functions come out inlined, as runtimes do it themselves: heads of one call are not those of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import ModelProto, helper

from onnxheadprune import ModelError, plan_pruning, prune, validate
from tests import golden_file
from tests.graphs import toys

DOMAIN = "local"
GOLDEN = Path(__file__).parents[1] / "golden"
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


@pytest.mark.each_choice
@pytest.mark.parametrize("external", ["auto", "always"])
@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("split", [False, True])
def test_a_cut_has_no_calls(tmp_path: Path, split: bool, softmax: bool, external: Any) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(with_functions(softmax=softmax, split=split), path)
    result = prune(path, tmp_path / "o.onnx", heads="0:1", provider="cpu", external_data=external)
    assert result.validation is not None and result.validation.passed
    found = onnx.load(tmp_path / "o.onnx")
    assert not found.functions and not any(node.domain for node in found.graph.node)
    assert validate(path, tmp_path / "o.onnx", provider="cpu").passed


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


def test_functions_may_call_others(tmp_path: Path) -> None:
    model = with_functions(split=True)
    outer = function(
        "Outer", [helper.make_node("Split", ["a", "shape"], ["b"], domain=DOMAIN)], ["a", "shape"], ["b"]
    )
    model.functions.append(outer)
    next(node for node in model.graph.node if node.op_type == "Split").op_type = "Outer"
    result = prune(model, tmp_path / "o.onnx", heads="0:1", provider="cpu")
    assert result.validation is not None and result.validation.passed
    assert not onnx.load(tmp_path / "o.onnx").functions


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


@pytest.mark.parametrize("golden", ["edge_gather", "if_branches", "reshape_targets"])
def test_edits_of_all_places_are_right_behind_a_call(golden: str) -> None:
    """New nodes and edits within branches: each at its place once the call is inlined."""
    case = golden_file.read(GOLDEN / f"{golden}.txt")
    model = case.model
    twice = helper.make_node("Twice", ["y"], ["doubled"], domain=DOMAIN)
    # In front of all others, so that every position is another one once the call is inlined.
    first = helper.make_node("Twice", ["x"], ["x_doubled"], domain=DOMAIN)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([first, *nodes, twice])
    for name in ("doubled", "x_doubled"):
        model.graph.output.add().CopyFrom(model.graph.output[0])
        model.graph.output[-1].name = name
    parts = [
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Sub", ["a", "b"], ["c"]),
    ]
    model.functions.append(function("Twice", parts, ["a"], ["c"]))
    model.opset_import.append(OPSETS[1])
    model.ir_version = 10
    result = prune(model, heads=case.heads, provider="cpu", **case.flags)
    assert result.validation is not None and result.validation.verdict == "passed"
    assert not result.model.functions
