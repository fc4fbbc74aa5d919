"""Local functions that a cut does not touch stay functions; those that it touches are inlined, and only they."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from onnxheadprune import apply_plan, plan_pruning, prune, validate
from onnxheadprune.errors import ModelError
from onnxheadprune.model import prepare
from tests import golden_file, toys
from tests.lossless import unexplained

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


def names(model: ModelProto) -> list[str]:
    return [item.name for item in model.functions]


ALL = ["Plus", "Twice", "Unused", "Soft", "Split"]


@pytest.mark.each_choice
@pytest.mark.parametrize("external", ["auto", "always"])
@pytest.mark.parametrize("softmax", [False, True])
def test_untouched_functions_stay(tmp_path: Path, softmax: bool, external: Any) -> None:
    """A softmax over fewer heads is the same softmax: its function stays, too."""
    model = with_functions(softmax=softmax)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    result = prune(path, tmp_path / "o.onnx", heads="0:1", provider="cpu", external_data=external)
    assert result.validation is not None and result.validation.passed
    found = onnx.load(tmp_path / "o.onnx")
    assert names(found) == ALL
    assert [f.SerializeToString() for f in found.functions] == [
        f.SerializeToString() for f in model.functions
    ]
    assert [n.op_type for n in found.graph.node] == [n.op_type for n in model.graph.node]
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
    found = onnx.load(tmp_path / "o.onnx")
    assert names(found) == ["Plus", "Twice", "Unused", "Soft"]
    kept = {item.name: item.SerializeToString() for item in model.functions}
    assert all(item.SerializeToString() == kept[item.name] for item in found.functions)
    assert validate(path, tmp_path / "o.onnx", provider="cpu").passed


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


@pytest.mark.slow
def test_weights_within_functions_count_once() -> None:
    """The bound is on what inlining adds: weights in the body of a function that is called once are no more."""
    model = with_functions(softmax=True)
    large = prepare.MAX_BYTES + 2**16
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[large // 4], raw_data=bytes(large))
    constant = helper.make_node("Constant", [], ["w"], value=weight)
    called_once, called_often = model.functions[3], model.functions[0]
    called_once.node.insert(0, constant)
    assert len(prepare.prepared(model).graph.node) > len(model.graph.node)
    called_often.node.insert(0, called_once.node.pop(0))
    with pytest.raises(ModelError, match="inlined the graph would have"):
        prepare.prepared(model)


def test_touched_functions_are_inlined_and_only_they(tmp_path: Path) -> None:
    model = with_functions(split=True)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    result = prune(path, tmp_path / "o.onnx", heads="0:1", provider="cpu")
    assert result.validation is not None and result.validation.passed
    assert names(onnx.load(tmp_path / "o.onnx")) == ["Plus", "Twice", "Unused", "Soft"]
    assert validate(path, tmp_path / "o.onnx", provider="cpu").passed


def test_callers_of_inlined_functions_are_inlined(tmp_path: Path) -> None:
    model = with_functions(split=True)
    outer = function(
        "Outer", [helper.make_node("Split", ["a", "shape"], ["b"], domain=DOMAIN)], ["a", "shape"], ["b"]
    )
    model.functions.append(outer)
    next(node for node in model.graph.node if node.op_type == "Split").op_type = "Outer"
    result = prune(model, tmp_path / "o.onnx", heads="0:1", provider="cpu")
    assert result.validation is not None and result.validation.passed
    assert names(onnx.load(tmp_path / "o.onnx")) == ["Plus", "Twice", "Unused", "Soft"]


def test_all_else_is_identical_also_with_functions() -> None:
    model = toys.attention()
    model.functions.append(function("Unused", [helper.make_node("Neg", ["a"], ["b"])], ["a"], ["b"]))
    model.opset_import.append(OPSETS[1])
    model.ir_version = 10
    plan = plan_pruning(model, heads="0:1")
    assert unexplained(model, prune(model, heads="0:1", provider="cpu").model, plan) == []
    assert unexplained(model, apply_plan(plan, model), plan) == []


def test_the_order_of_nodes_stays_as_stored(tmp_path: Path) -> None:
    """Some converters append nodes at the end; they are analysed sorted and written as they were."""
    model = toys.attention()
    moved = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    moved.append(moved.pop(0))
    del model.graph.node[:]
    model.graph.node.extend(moved)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    prune(tmp_path / "m.onnx", tmp_path / "o.onnx", heads="0:1", validate=False)
    found = onnx.load(tmp_path / "o.onnx")
    assert [node.name for node in found.graph.node] == [node.name for node in model.graph.node]
    assert np.array_equal(
        toys.get_initializer(found, "attn.q.bias"),
        toys.get_initializer(model, "attn.q.bias")[[*range(4), *range(8, 16)]],
    )


@pytest.mark.parametrize("golden", ["edge_gather", "if_branches", "reshape_targets", "shared_weights"])
def test_edits_of_all_places_find_theirs_beside_a_function(golden: str) -> None:
    """New nodes, edits within branches and copies of weights: each at its place in the model as it is stored."""
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
    assert names(result.model) == ["Twice"]
    assert [node.op_type for node in result.model.graph.node].count("Twice") == 2
