"""The first nodes of a pruned graph that are not the planned ones are named, wherever something differs."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import pytest
from onnx import ModelProto, helper

from onnxheadprune import PrunePlan, apply_plan, plan_pruning
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.validation.graph import compared
from onnxheadprune.validation.result import Likeness
from tests import attacks
from tests.graphs import toys

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
    return compared(LoadedModel(model, "model"), LoadedModel(smaller, "smaller"), plan, "model", False)[1]


def copied(model: ModelProto) -> ModelProto:
    return ModelProto.FromString(model.SerializeToString())


def values(name: str) -> Iterator[str]:
    """The values of floats between two nodes."""
    model = onnx.shape_inference.infer_shapes(cut(name)[2])
    floats = {info.name for info in model.graph.value_info if info.type.tensor_type.elem_type == 1}
    return (item.output[0] for item in model.graph.node if item.output[0] in floats)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_inserted_anywhere_is_named(name: str) -> None:
    model, plan, plain = cut(name)
    for value in values(name):
        smaller = copied(plain)
        steps = [
            helper.make_node("Neg", [f"{value}/raw"], ["middle"], name="first"),
            helper.make_node("Neg", ["middle"], [value], name="second"),
        ]
        attacks.behind(smaller, value, *steps)
        found = likeness(model, plan, smaller)
        assert found.differences[0] == "Neg (first) is not planned", value
        assert not found.identical and found.same < found.nodes


def test_two_random_nodes_are_never_one() -> None:
    """Equal nodes are one value, but for those that draw."""

    def drawing(second: str) -> ModelProto:
        model = toys.attention()
        last = next(node for node in model.graph.node if "y" in node.output)
        last.output[0] = "steady"
        for name in ("one", "two"):
            model.graph.node.append(helper.make_node("RandomNormalLike", ["steady"], [name], name=name))
        model.graph.node.append(helper.make_node("Add", ["steady", "one"], ["some"]))
        model.graph.node.append(helper.make_node("Add", ["some", second], ["y"]))
        return model

    model = drawing("two")
    plan = plan_pruning(model, heads="0:1")
    assert likeness(model, plan, apply_plan(plan, model)).identical
    other = drawing("one")
    assert not likeness(model, plan, apply_plan(plan_pruning(other, heads="0:1"), other)).identical
