"""Every sample export, every head set: equal to PyTorch's own silenced model, and nothing else was touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from onnxheadprune import PrunePlan, apply_plan, plan_pruning
from onnxheadprune.attention.planning import planned
from onnxheadprune.edit.edits import AddConstant, DropNode, DropTensor, InsertNode, SetDim, SliceTensor
from onnxheadprune.edit.records import units_entry
from onnxheadprune.runtime import Session
from tests.laws.census import check_census
from tests.tiny_samples import NAMES, PROVIDER, TOLERANCE, analysis, error, reference, sample

HEADS, HEAD_SIZE, HIDDEN = 4, 8, 32
PER_HEAD = HEAD_SIZE * 4 * HIDDEN + 3 * HEAD_SIZE
"""Weights of q, k, v and o of one head, and the biases of q, k and v: what one head costs."""
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)

CASES = [(name, index) for name in NAMES for index in range(20)]


def test_nothing_is_missing() -> None:
    architectures = ("bert", "distilbert", "gpt2", "roberta", "vit")
    assert [
        f"{architecture}-{exporter}-{attention}"
        for architecture in architectures
        for exporter in ("dynamo", "torchscript")
        for attention in ("eager", "sdpa")
    ] == NAMES
    for architecture in architectures:
        assert len(reference(architecture).head_sets) == 20


@pytest.mark.parametrize("name", NAMES)
def test_the_original_equals_pytorch(name: str) -> None:
    """The reference and the comparison themselves are right."""
    expected = reference(name.partition("-")[0])
    session = Session(sample(name), PROVIDER)
    for feed, arrays in expected.feeds.items():
        (output,) = session.run(arrays).values()
        assert error(output, expected.output("original", feed)) <= TOLERANCE
        assert error(output, expected.output("set00", feed)) > 100 * TOLERANCE


@pytest.mark.each_choice
@pytest.mark.parametrize(("name", "index"), CASES, ids=[f"{name}-set{index:02}" for name, index in CASES])
def test_pruned_equals_pytorch_and_nothing_else_moved(name: str, index: int) -> None:
    expected = reference(name.partition("-")[0])
    heads = expected.head_sets[index]
    original = sample(name)
    before = original.SerializeToString(deterministic=True)
    plan = planned(analysis(name), heads).plan
    pruned = apply_plan(plan, original)
    assert original.SerializeToString(deterministic=True) == before
    session = Session(pruned, PROVIDER)
    for feed, arrays in expected.feeds.items():
        (output,) = session.run(arrays).values()
        assert error(output, expected.output(f"set{index:02}", feed)) <= TOLERANCE
    assert plan.edge_gathers == ()
    assert plan.io_changes == ()
    removed = sum(len(gone) for gone in heads.values())
    assert floats(original) - floats(pruned) == removed * PER_HEAD
    check_untouched(original, pruned, plan)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if at % 4 else ()) for at, name in enumerate(NAMES)],
)
def test_planning_leaves_the_analysis_as_it_was(name: str) -> None:
    """One that has served other sets of heads gives the plan of a new one."""
    for heads in reference(name.partition("-")[0]).head_sets[:2]:
        plan = planned(analysis(name), heads).plan
    assert plan.edits == plan_pruning(sample(name), heads=heads).edits
    check_census(sample(name), analysis(name).sites)


def floats(model: ModelProto) -> int:
    """Elements of all stored float tensors."""
    return sum(int(np.prod(tensor.dims)) for tensor in tensors(model) if tensor.data_type in FLOATS)


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        yield from (attribute.t for attribute in node.attribute if attribute.name == "value")


def check_untouched(original: ModelProto, pruned: ModelProto, plan: PrunePlan) -> None:
    """What the plan does not name is bit-identical and in the same order."""
    edits = [item.edit for item in plan.edits]
    named = {str(edit.node) for edit in edits if hasattr(edit, "node")}
    created = {edit.outputs[0] for edit in edits if isinstance(edit, InsertNode)}
    kept = [node for position, node in enumerate(original.graph.node) if f"main[{position}]" not in named]
    touched = [node for position, node in enumerate(original.graph.node) if f"main[{position}]" in named]
    names = {node.name for node in touched if node.name}
    rest = [node for node in pruned.graph.node if node.name not in names and node.output[0] not in created]
    assert serialized(kept) == serialized(rest)
    dropped = {edit.node for edit in edits if isinstance(edit, DropNode)}
    assert len(pruned.graph.node) == len(original.graph.node) - len(dropped) + len(created)

    changed = {edit.target for edit in edits if isinstance(edit, SliceTensor)}
    changed |= {edit.name for edit in edits if isinstance(edit, (AddConstant, DropTensor))}
    ours, theirs = ({item.name: item for item in model.graph.initializer} for model in (original, pruned))
    assert ours.keys() - changed == theirs.keys() - changed
    for tensor_name in ours.keys() - changed:
        assert ours[tensor_name] == theirs[tensor_name]
    for edit in edits:
        if isinstance(edit, SliceTensor) and edit.target == edit.name:
            check_cut(ours[edit.name], theirs[edit.name])

    redeclared = {edit.value for edit in edits if isinstance(edit, SetDim)}
    outputs_gone = {name for node in touched for name in node.output}
    infos = {info.name: info for info in original.graph.value_info}
    for info in pruned.graph.value_info:
        if info.name not in redeclared | outputs_gone:
            assert infos[info.name] == info
    assert list(original.graph.input) == list(pruned.graph.input)
    assert list(original.graph.output) == list(pruned.graph.output)
    check_header(original, pruned)


def check_cut(whole: TensorProto, part: TensorProto) -> None:
    """A cut tensor differs in its data and dimensions only, and every row of it is one of the original's."""
    left, right = TensorProto(), TensorProto()
    left.CopyFrom(whole)
    right.CopyFrom(part)
    for tensor in (left, right):
        tensor.ClearField("raw_data")
        tensor.ClearField("dims")
    assert left == right
    rows, kept = (numpy_helper.to_array(tensor).reshape(tensor.dims[0], -1) for tensor in (whole, part))
    if rows.shape[1] == kept.shape[1]:
        assert {row.tobytes() for row in kept} <= {row.tobytes() for row in rows}


def check_header(original: ModelProto, pruned: ModelProto) -> None:
    left, right = ModelProto(), ModelProto()
    left.CopyFrom(original)
    right.CopyFrom(pruned)
    added = [entry for entry in right.metadata_props if entry.key == units_entry("heads").key]
    assert len(added) == 1
    right.metadata_props.remove(added[0])
    for model in (left, right):
        for field in ("node", "initializer", "value_info"):
            model.graph.ClearField(field)  # type: ignore[arg-type]
    assert left == right


def serialized(nodes: list[NodeProto]) -> list[bytes]:
    return [node.SerializeToString(deterministic=True) for node in nodes]


@pytest.mark.slow
def test_digits_can_lose_any_head(digits: Path) -> None:
    from onnxheadprune import apply_plan, validate

    model = onnx.load(digits)
    for heads in ("0:1", "*:7", "0:0-6 1:1-7 2:0,2,4,6", "3:0-3"):
        plan = plan_pruning(model, heads=heads)
        assert plan.edge_gathers == ()
        assert validate(model, apply_plan(plan, model), provider="cpu").verdict == "passed"


def touch_a_weight(model: ModelProto) -> None:
    tensor = next(item for item in model.graph.initializer if "LayerNorm" in item.name and item.raw_data)
    tensor.raw_data = tensor.raw_data[:-1] + bytes([tensor.raw_data[-1] ^ 1])


def touch_a_node(model: ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Softmax").attribute[0].i = 2


def touch_a_doc_string(model: ModelProto) -> None:
    model.graph.node[-1].doc_string += "!"


def touch_the_producer(model: ModelProto) -> None:
    model.producer_version += "!"


@pytest.mark.parametrize("touch", [touch_a_weight, touch_a_node, touch_a_doc_string, touch_the_producer])
def test_whatever_else_moves_is_seen(touch: Any) -> None:
    original = sample("bert-torchscript-eager")
    plan = plan_pruning(original, heads="0:1")
    pruned = apply_plan(plan, original)
    check_untouched(original, pruned, plan)
    touch(pruned)
    with pytest.raises(AssertionError):
        check_untouched(original, pruned, plan)
