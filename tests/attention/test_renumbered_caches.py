"""`--cache renumber`: caches of attention that goes as a whole go too, and those of other layers close the gap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import pytest
from onnx import ModelProto, helper

from onnxheadprune import (
    RefusedError,
    UsageError,
    plan_pruning,
    prune,
    validate,
)
from tests.graphs import toys
from tests.recording import recorded, rewritten

ATTENTION: dict[str, Any] = {"1": "*"}


def names(model: ModelProto) -> tuple[list[str], list[str]]:
    return [item.name for item in model.graph.input], [item.name for item in model.graph.output]


def caches(numbers: Sequence[int], pattern: str = "past_key_values.{}.{}") -> list[str]:
    return [pattern.format(number, what) for number in numbers for what in ("key", "value")]


def cut(model: ModelProto, spec: Any = ATTENTION, **more: Any) -> ModelProto:
    """The model without what a spec names, proven."""
    result = prune(model, heads=spec, provider="cpu", cache="renumber", **more)
    assert result.validation is not None and result.validation.verdict == "passed", result.validation
    return result.model


# What is left


@pytest.mark.parametrize("pattern", ["past_{}_{}", "past_key_values.{}.{}", "model.decoder2.past{}_{}"])
def test_the_number_is_found_in_names_of_several_kinds(pattern: str) -> None:
    made = cut(toys.decoder(3, cache=True, pattern=pattern, first=2))
    assert names(made)[0] == ["input_ids", *caches((2, 3), pattern)]


def test_a_merged_decoder_loses_the_outputs_of_both_branches() -> None:
    model = toys.merged()
    made = cut(model)
    assert names(made)[0] == ["input_ids", *caches(range(2)), "use_cache_branch"]
    (choice,) = made.graph.node
    for outputs in (choice.output, *([info.name for info in item.g.output] for item in choice.attribute)):
        assert list(outputs) == ["logits", *caches(range(2), "present.{}.{}")]
    onnx.checker.check_model(made, full_check=True)


def test_the_length_of_the_past_is_read_off_another_cache() -> None:
    """Exporters read it off the first one."""
    made = cut(toys.decoder(3, cache=True, measured=0), {"0": "*"})
    (reader,) = (node for node in made.graph.node if node.op_type == "Shape")
    assert reader.input[0] == "past_key_values.0.key" and names(made)[0] == ["input_ids", *caches(range(2))]


# Again and again


@pytest.mark.slow
def test_a_second_cut_goes_on_and_every_pair_is_proven() -> None:
    model = toys.decoder(4, cache=True)
    first = cut(model)
    assert recorded(first)["contract"]["dropped_caches"] == [1]
    second = cut(first, {"2": "*"})
    assert recorded(second)["contract"]["dropped_caches"] == [1, 2]
    assert names(second)[0] == ["input_ids", *caches(range(2))]
    for before, after in ((model, first), (first, second), (model, second)):
        assert validate(before, after, provider="cpu").verdict == "passed"
    plain = prune(first, heads={"3": [0]}, provider="cpu").model
    assert recorded(plain)["contract"]["dropped_caches"] == [1]
    assert validate(model, plain, provider="cpu").verdict == "passed"


# What does not hold shows


@pytest.mark.parametrize("name", ["past_key_values.{}.key", "present.{}.key"])
def test_caches_under_each_others_names_fail(name: str) -> None:
    model = toys.decoder(4, cache=True)
    made = cut(model)
    swap = {name.format(number): name.format(3 - number) for number in (1, 2)}
    for node in made.graph.node:
        for listed in (node.input, node.output):
            listed[:] = [swap.get(read, read) for read in listed]
    assert validate(model, made, provider="cpu").verdict == "failed"


def test_a_record_of_caches_that_are_there_is_refused() -> None:
    model = toys.decoder(3, cache=True)
    kept = prune(model, heads=ATTENTION, provider="cpu").model
    with rewritten(kept) as record:
        record["contract"] = {"kept_caches": [], "dropped_caches": [1], "narrowed": []}
    with pytest.raises(UsageError, match="do not belong together"):
        validate(model, kept, provider="cpu")


# What cannot be done is refused


def refusal(model: ModelProto, spec: Any = ATTENTION) -> str:
    with pytest.raises(RefusedError) as refused:
        plan_pruning(model, heads=spec, cache="renumber")
    assert 'cache="renumber"' in str(refused.value)
    assert not plan_pruning(model, heads=spec).renamed
    return str(refused.value)


def with_io(model: ModelProto, name: str, after: str) -> ModelProto:
    """The model with one more input that is handed out as it is."""
    model.graph.input.append(helper.make_tensor_value_info(name, 1, ["batch", 3]))
    model.graph.output.append(helper.make_tensor_value_info(after, 1, ["batch", 3]))
    model.graph.node.append(helper.make_node("Identity", [name], [after], name="kept"))
    return model


def test_a_layer_that_keeps_a_part_of_its_cache_is_refused() -> None:
    model = with_io(toys.decoder(3, cache=True), "past_key_values.1.state", "state")
    assert "past_key_values.1.state belongs to the same layer" in refusal(model)


def test_numbers_with_gaps_are_refused() -> None:
    model = toys.decoder(3, cache=True)
    for kind in (model.graph.input, model.graph.output):
        for info in kind:
            info.name = info.name.replace(".2.", ".7.")
    for node in model.graph.node:
        for listed in (node.input, node.output):
            listed[:] = [
                name.replace(".2.", ".7.") if name.startswith(("past", "present")) else name
                for name in listed
            ]
    assert "numbered 0, 1, 7" in refusal(model)


@pytest.mark.parametrize(
    ("branch", "told"),
    [("then_branch", "still reads past_key_values.1.key"), ("else_branch", "is something else")],
)
def test_keys_that_something_else_reads_are_refused(branch: str, told: str) -> None:
    """With a past, the past cannot go then; for the first tokens the name of the present stays taken."""
    model = toys.merged()
    (body,) = (item.g for item in model.graph.node[0].attribute if item.name == branch)
    body.node[-1].output[0] = "straight"
    body.node.append(helper.make_node("ReduceMean", ["present.1.key"], ["level"], keepdims=0, name="level"))
    body.node.append(helper.make_node("Add", ["straight", "level"], ["logits"], name="shifted"))
    assert told in refusal(model)


@pytest.mark.parametrize("dims", [("batch", "other_past"), (None, None)])
def test_a_length_that_only_that_cache_tells_is_refused(dims: tuple[str | None, str | None]) -> None:
    model = toys.decoder(3, cache=True, measured=1)
    for info in model.graph.input:
        if info.name == "past_key_values.1.key":
            for axis, name in zip((0, 2), dims, strict=True):
                info.type.tensor_type.shape.dim[axis].ClearField("dim_param")
                if name is not None:
                    info.type.tensor_type.shape.dim[axis].dim_param = name
    assert "still reads past_key_values.1.key" in refusal(model)


def test_two_numbers_that_may_both_be_the_layers_are_refused() -> None:
    model = toys.decoder(3, cache=True, pattern="past.{0}.{0}.{1}")
    assert "does not show which number" in refusal(model)


def test_numbers_that_count_values_are_refused() -> None:
    """Names like 12 for the key and 13 for the value of one layer."""
    model = toys.decoder(3, cache=True, pattern="past_{}_{}")
    renamed = {
        f"past_{at}_{what}": f"{10 + 2 * at + (what == 'value')}"
        for at in range(3)
        for what in ("key", "value")
    }
    for info in model.graph.input:
        info.name = renamed.get(info.name, info.name)
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    assert "two caches of one layer differ in it" in refusal(model)


@pytest.mark.parametrize(
    ("cache", "spec", "told"),
    [
        (True, "0:1", "no whole attention is removed"),
        (False, "1:*", "the removed attention has no cache"),
    ],
)
def test_where_there_is_nothing_to_renumber_the_plan_says_so(cache: bool, spec: str, told: str) -> None:
    model = toys.decoder(3, cache=cache)
    assert told in plan_pruning(model, heads=spec, cache="renumber").notes[-1]
    assert plan_pruning(model, heads=spec).notes == ()
