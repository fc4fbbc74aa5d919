"""Plans: JSON both ways, deterministic bytes, only for their model, and nothing touched beyond them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

from onnxheadprune import plan_pruning
from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.edit.apply import apply_plan
from onnxheadprune.edit.edits import DropInputs, SetOutput, SliceTensor
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.edit.records import REMOVED_KEY
from onnxheadprune.errors import RefusedError, UsageError
from tests.attention.block_parts import build
from tests.attention.blueprint import PLAIN
from tests.liveness.one_node import run

GROUPED = replace(PLAIN, K=2, G=2, rotary=True, past=3, mask="batch", target="zero", opset=21)
MODELS = {
    "plain": (PLAIN, [1, 2]),
    "packed": (replace(PLAIN, packing="packed", gemm=True, target="minus"), [0]),
    "interleaved": (replace(PLAIN, packing="interleaved", unpack="gather", layout="merged"), [3]),
    "grouped": (GROUPED, [0, 1]),
    "one per group": (GROUPED, [0, 3]),
}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[ModelProto, PrunePlan]:
    blueprint, heads = MODELS[request.param]
    model, _ = build(blueprint)
    return model, plan_pruning(model, heads={"*": heads})


def bytes_of(model: ModelProto) -> bytes:
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def test_plan_survives_json(case: tuple[ModelProto, PrunePlan]) -> None:
    _, plan = case
    again = PrunePlan.from_dict(json.loads(plan.to_json()))
    assert again == plan
    assert str(again) == str(plan)
    assert again.counts() == plan.counts()


def test_deserialised_plan_gives_the_same_bytes(case: tuple[ModelProto, PrunePlan]) -> None:
    model, plan = case
    before = bytes_of(model)
    again = PrunePlan.from_dict(json.loads(plan.to_json()))
    assert bytes_of(apply_plan(again, model)) == bytes_of(apply_plan(plan, model))
    assert bytes_of(model) == before


def test_planning_twice_gives_the_same_plan(case: tuple[ModelProto, PrunePlan]) -> None:
    model, plan = case
    copy = ModelProto.FromString(model.SerializeToString())
    assert plan_pruning(copy, heads={cut.index: cut.removed for cut in plan.cuts}) == plan


def test_plan_is_refused_on_another_model(case: tuple[ModelProto, PrunePlan]) -> None:
    model, plan = case
    other = ModelProto.FromString(model.SerializeToString())
    other.graph.node[0].output[0] += "_renamed"
    with pytest.raises(RefusedError, match="another model"):
        apply_plan(plan, other)
    with pytest.raises(RefusedError, match="another model"):
        apply_plan(plan, apply_plan(plan, model))


def test_unknown_format_is_refused() -> None:
    with pytest.raises(UsageError, match="format"):
        PrunePlan.from_dict({"format": 0})


def record(model: ModelProto) -> list[dict[str, Any]]:
    """What the metadata say was removed, per site."""
    entry = next(item.value for item in model.metadata_props if item.key == REMOVED_KEY)
    sites: list[dict[str, Any]] = json.loads(entry)["sites"]
    return sites


def test_record_of_two_prunings_is_that_of_one() -> None:
    model, _ = build(PLAIN)
    once = apply_plan(plan_pruning(model, heads={0: [1, 3], 1: [0]}), model)
    first = apply_plan(plan_pruning(model, heads={0: [1]}), model)
    twice = apply_plan(plan_pruning(first, heads={0: [3], 1: [0]}), first)
    assert record(once) == record(twice)


@pytest.mark.long
def test_pruning_twice_composes_in_original_indices() -> None:
    model, feed = build(PLAIN)
    once = apply_plan(plan_pruning(model, heads={0: [1, 3], 1: [0]}), model)
    first = apply_plan(plan_pruning(model, heads={0: [1]}), model)
    sites = inspect(first)
    assert sites[0].removed == (1,)
    assert sites[0].original_units == (0, 2, 3)
    twice = apply_plan(plan_pruning(first, heads={0: [3], 1: [0]}), first)
    for name, array in run(once, feed).items():
        np.testing.assert_array_equal(run(twice, feed)[name], array)
    for model in (once, twice):
        assert [item["removed"] for item in record(model)] == [[1, 3], [0]]
        assert [item["num_heads"] for item in record(model)] == [4, 4]
    with pytest.raises(UsageError, match="removed before"):
        plan_pruning(twice, heads={0: [1]})


def test_what_the_plan_does_not_name_is_bit_identical() -> None:
    model, _ = build(PLAIN)
    model.doc_string, model.graph.doc_string = "a model", "a graph"
    model.metadata_props.add(key="owner", value="someone")
    for position, node in enumerate(model.graph.node):
        node.doc_string = f"node {position}"
        node.metadata_props.add(key="position", value=str(position))
    model.graph.node.add(op_type="Identity", name="dead", input=["x"], output=["unused"])
    plan = plan_pruning(model, heads={0: [1]})
    pruned = apply_plan(plan, model)
    named = {
        ref for item in plan.edits for key in ("node", "before") if (ref := getattr(item.edit, key, None))
    }
    kept = {node.doc_string: node for node in pruned.graph.node}
    for position, node in enumerate(model.graph.node):
        if f"main[{position}]" not in named:
            assert kept[node.doc_string].SerializeToString() == node.SerializeToString()
    cut = {item.edit.name for item in plan.edits if isinstance(item.edit, SliceTensor)}
    tensors = {tensor.name: tensor for tensor in pruned.graph.initializer}
    untouched = [
        tensor for tensor in model.graph.initializer if tensor.name in tensors and tensor.name not in cut
    ]
    assert any("1_" in tensor.name for tensor in untouched)
    for tensor in untouched:
        assert tensors[tensor.name].SerializeToString() == tensor.SerializeToString()
    assert pruned.doc_string == "a model"
    assert pruned.graph.doc_string == "a graph"
    assert ("owner", "someone") in [(entry.key, entry.value) for entry in pruned.metadata_props]
    assert pruned.opset_import == model.opset_import
    assert list(pruned.graph.input) == list(model.graph.input)
    assert list(pruned.graph.output) == list(model.graph.output)


def test_seldom_edits_say_what_they_do() -> None:
    assert str(SetOutput("main[1]", 0, "shape/raw")) == "output 0 of main[1] = shape/raw"
    assert str(DropInputs("main[2]", (1, 3))) == "drop inputs [1, 3] of main[2]"


def test_in_old_files_new_tensors_are_inputs_too() -> None:
    """Before version 4 of the format every stored tensor is an input with a default."""
    model, _ = build(PLAIN)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        )
    smaller = apply_plan(plan_pruning(model, heads="0:1"), model)
    names = [info.name for info in smaller.graph.input]
    assert {tensor.name for tensor in smaller.graph.initializer} <= {*names}
    assert len({*names}) == len(names)
