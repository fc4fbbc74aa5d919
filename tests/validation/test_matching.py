"""Each node of a pruned graph is counted as the planned one or not, wherever in the graph something differs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from onnx import ModelProto, helper

from onnxheadprune import apply_plan, plan_pruning
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.validation.expected_model import find_likeness
from onnxheadprune.validation.graph_comparison import Likeness
from tests import attacks, toys

MODELS = {
    "text": attacks.text_model,
    "cache": lambda: toys.attention(cache=True),
    "body": lambda: attacks.with_body(toys.attention()),
}


def cut(name: str) -> tuple[ModelProto, PrunePlan, ModelProto]:
    model = MODELS[name]()
    plan = plan_pruning(model, heads="0:1")
    return model, plan, apply_plan(plan, model)


def likeness(model: ModelProto, plan: PrunePlan, smaller: ModelProto) -> Likeness:
    return find_likeness(LoadedModel(model, "model"), LoadedModel(smaller, "smaller"), plan, "model", False)[
        1
    ]


def insert(model: ModelProto, value: str, suffix: str = "") -> None:
    """Two nodes behind a value, which change nothing together."""
    middle = f"{value}/middle{suffix}"
    steps = [
        helper.make_node("Neg", [f"{value}/raw"], [middle], name=f"first{suffix}"),
        helper.make_node("Neg", [middle], [value], name=f"second{suffix}"),
    ]
    attacks.behind(model, value, *steps)


def values(name: str) -> Iterator[str]:
    """The values of floats between two nodes."""
    model = onnx.shape_inference.infer_shapes(cut(name)[2])
    floats = {info.name for info in model.graph.value_info if info.type.tensor_type.elem_type == 1}
    return (item.output[0] for item in model.graph.node if item.output[0] in floats)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_inserted_anywhere_is_named_and_all_else_is_the_same(name: str) -> None:
    model, plan, plain = cut(name)
    for value in values(name):
        smaller = ModelProto.FromString(plain.SerializeToString())
        insert(smaller, value)
        found = likeness(model, plan, smaller)
        assert [node.name for node in found.differing] == ["first", "second"], value
        assert found.same == found.nodes - 2 and not found.missing
        assert found.to_dict()["differing"] == ["Neg (first)", "Neg (second)"]
        assert any(line.startswith("2 nodes not planned: Neg (first), Neg (second)") for line in found.others)


@pytest.mark.parametrize("name", MODELS)
def test_two_places_are_told_apart_from_what_is_between(name: str) -> None:
    model, plan, plain = cut(name)
    for one, other in itertools.combinations(list(values(name))[::2], 2):
        smaller = ModelProto.FromString(plain.SerializeToString())
        insert(smaller, one, "a")
        insert(smaller, other, "b")
        found = likeness(model, plan, smaller)
        assert {node.name for node in found.differing} == {"firsta", "seconda", "firstb", "secondb"}


@pytest.mark.parametrize("name", MODELS)
def test_a_node_that_is_left_out_is_named(name: str) -> None:
    model, plan, plain = cut(name)
    for index, node in enumerate(plain.graph.node):
        if node.op_type not in ("Add", "Mul", "Softmax", "Sub"):
            continue
        smaller = ModelProto.FromString(plain.SerializeToString())
        del smaller.graph.node[index]
        if any(info.name == node.output[0] for info in smaller.graph.output):
            continue
        attacks.rename(smaller, node.output[0], node.input[0])
        found = likeness(model, plan, smaller)
        assert found.same == found.nodes and len(found.missing) == 1, node.name
        assert found.missing[0].startswith(node.op_type)


@pytest.mark.parametrize("name", MODELS)
def test_a_node_whose_inputs_change_places_is_another_one(name: str) -> None:
    model, plan, plain = cut(name)
    for index, node in enumerate(plain.graph.node):
        if node.op_type not in ("MatMul", "Sub", "Gather", "Add") or node.input[0] == node.input[1]:
            continue
        smaller = ModelProto.FromString(plain.SerializeToString())
        names = smaller.graph.node[index].input
        names[0], names[1] = names[1], names[0]
        found = likeness(model, plan, smaller)
        differing = [item.output[0] for item in found.differing]
        assert node.output[0] in differing and found.same >= found.nodes - 2, (node.output[0], differing)


@pytest.mark.parametrize("name", MODELS)
def test_a_changed_attribute_is_one_node(name: str) -> None:
    model, plan, plain = cut(name)
    for index, node in enumerate(plain.graph.node):
        for position, attribute in enumerate(node.attribute):
            if attribute.type != onnx.AttributeProto.INT:
                continue
            smaller = ModelProto.FromString(plain.SerializeToString())
            smaller.graph.node[index].attribute[position].i += 1
            found = likeness(model, plan, smaller)
            assert [item.output[0] for item in found.differing] == [node.output[0]]
            assert len(found.missing) == 1


def test_most_of_what_an_optimizer_leaves_is_the_same(tmp_path: Path) -> None:
    model, plan, smaller = cut("text")
    options: Any = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(smaller.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = likeness(model, plan, onnx.load(tmp_path / "optimized.onnx"))
    assert found.nodes * 2 / 3 < found.same <= found.nodes
