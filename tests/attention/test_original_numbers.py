"""Sites of a pruned model are recognised by what they are, and get the numbers that they had in the original."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from onnx import ModelProto

from onnxheadprune import ModelError, apply_plan, inspect, plan_pruning, validate
from tests.conftest import ROOT
from tests.graphs import toys
from tests.recording import recorded, rewritten

Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def models() -> tuple[ModelProto, ModelProto]:
    """Two layers of four heads, and the same without heads 0 and 2 of the second."""
    original = toys.stack()
    return original, apply_plan(plan_pruning(original, heads={1: [0, 2]}), original)


def changed(model: ModelProto, change: Change, units: str = "heads") -> ModelProto:
    """A copy whose record has other sites."""
    copy = ModelProto()
    copy.CopyFrom(model)
    with rewritten(copy) as record:
        record["units"][units] = change(record["units"][units])
    return copy


def without_the_first(sites: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As a version would have written it that does not see the first site."""
    return [{**sites[1], "number": 0}]


def test_a_record_names_what_its_projections_give(models: tuple[ModelProto, ModelProto]) -> None:
    record = recorded(models[1])["units"]["heads"]
    names = [output for node in models[0].graph.node for output in node.output]
    assert [entry["removed"] for entry in record] == ["", "0,2"]
    assert all(len(entry["projections"]) == 1 and entry["projections"][0] in names for entry in record)


@pytest.mark.slow
def test_a_site_that_the_record_does_not_know_shifts_no_index(models: tuple[ModelProto, ModelProto]) -> None:
    original, pruned = models
    old = changed(pruned, without_the_first)
    known, new = inspect(old)
    assert (known.index, known.removed, known.original_num_heads) == (0, (0, 2), 4)
    assert (new.index, new.removed, new.num_heads) == (1, (), 4)
    found = validate(original, old, provider="cpu")
    assert found.verdict == "passed" and found.heads == {1: (0, 2)}
    again = apply_plan(plan_pruning(old, heads={0: [1], 1: [3]}), old)
    assert [entry["removed"] for entry in recorded(again)["units"]["heads"]] == ["0-2", "3"]
    assert validate(original, again, provider="cpu").heads == {0: (3,), 1: (0, 1, 2)}


def test_heads_that_are_not_as_many_as_the_record_says(models: tuple[ModelProto, ModelProto]) -> None:
    def more(sites: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [sites[0], {**sites[1], "removed": "0"}]

    with pytest.raises(ModelError, match="has 3 heads, and it has 2; was the model changed"):
        inspect(changed(models[1], more))


@pytest.fixture(scope="module")
def narrowed() -> ModelProto:
    """The digits ViT without 64 neurons of its second block."""
    path = ROOT / "sample_models" / "digits_vit.onnx"
    return apply_plan(plan_pruning(path, heads={"ffn.1": range(64)}), path)


def under_other_names(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As after a quantizer, which calls what products give otherwise."""
    return [{**block, "projections": [f"{block['number']}_quantized"]} for block in blocks]


def with_all_neurons(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**block, "removed": ""} for block in blocks]


@pytest.mark.slow
def test_a_block_that_no_name_and_no_order_tells_is_new(narrowed: ModelProto) -> None:
    def partly(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return under_other_names(blocks[:1]) + blocks[1:3]

    found = inspect(changed(narrowed, partly, "neurons")).neurons
    assert [site.number for site in found] == [1, 2, 3, 4]
    with pytest.raises(ModelError, match="has 128 neurons, and it has 64; was the model changed"):
        list(inspect(changed(narrowed, with_all_neurons, "neurons")).neurons)
