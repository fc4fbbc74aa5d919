"""Early exits that are made permanent: found by structure, exact, with all else that a cut takes, and refused else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from onnxheadprune import (
    RefusedError,
    UsageError,
    find_exits,
    prune,
    validate,
)
from tests.graphs import exits
from tests.liveness.one_node import run
from tests.recording import recorded

NEVER = 2.0
"""No answer is that sure."""


def _decided_after(layers: int, feed: dict[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """What a model with as many layers answers that has no exits at all."""
    # The first layers draw the same weights, however many follow.
    whole = exits.nested(layers)
    read = {item.name for item in whole.graph.input}
    outputs = run(whole, {name: value for name, value in feed.items() if name in read})
    return next(value for value in outputs.values() if value.dtype == np.float32)


@pytest.mark.parametrize(
    ("form", "number"),
    [("nested", 1), *((form, 2) for form in exits.FORMS if form != "shared head")],
)
def test_the_model_at_an_exit_is_the_one_that_never_had_more_layers(form: str, number: int) -> None:
    result = prune(exits.FORMS[form](), exit=number, validate=False)
    feed = exits.feed(NEVER)
    answer = next(
        value for value in run(result.model, {"x": feed["x"]}).values() if value.dtype == np.float32
    )
    np.testing.assert_allclose(answer, _decided_after(number, feed), atol=1e-6)


@pytest.mark.slow
def test_what_is_behind_is_gone_and_numbers_stay() -> None:
    result = prune(exits.nested(), exit=1)
    names = {tensor.name for tensor in result.model.graph.initializer}
    assert not {name for name in names if name.startswith(("l1", "l2"))}
    assert result.plan.exit is not None
    assert (result.plan.exit.sites, result.plan.exit.heads, result.plan.exit.of) == (2, 8, 2)
    again = prune(result.model, heads={"0": [0]})
    assert again.plan.removed == {0: (0,)}
    states = {entry["number"]: entry["state"] for entry in recorded(again.model)["exits"]}
    assert states == {1: "taken", 2: "gone"}
    both = validate(exits.nested(), again.model)
    assert both.passed and both.exits == (1,) and both.heads == {0: (0,)}
    with pytest.raises(UsageError, match="swapped"):
        validate(again.model, exits.nested(), heads="0:1")
    with pytest.raises(RefusedError, match=r"no exit 2: exit 1 was made permanent before"):
        prune(result.model, exit=2)


@pytest.mark.parametrize("number", [1, 2])
def test_a_decision_that_a_branch_gives_out_is_constant(number: int) -> None:
    result = prune(exits.telling(), heads={"0": [1]}, exit=number)
    assert result.validation is not None and result.validation.passed
    told = next(change for change in result.plan.interface if change.role == "output")
    assert (told.name, told.before, told.after) == ("went_on", "computed", "always false")
    assert not run(result.model, {"x": exits.feed()["x"]})["went_on"]


@pytest.mark.slow
def test_two_towers_keep_the_numbers_of_their_exits() -> None:
    original = exits.towers()
    first = prune(original, exit=1)
    assert first.validation is not None and first.validation.passed
    assert [item.number for item in find_exits(first.model).exits] == [2]
    second = prune(first.model, heads={"2": [1]}, exit=2)
    assert second.validation is not None and second.validation.passed
    assert not [node for node in second.model.graph.node if node.op_type == "If"]
    found = validate(original, second.model)
    assert found.passed and found.exits == (1, 2)


def test_layers_that_are_skipped_are_no_exits() -> None:
    found = find_exits(exits.skipping())
    assert not found.exits
    with pytest.raises(RefusedError, match="no If decides whether further layers run"):
        prune(exits.skipping(), exit=1)


def test_a_loop_over_layers_is_no_exit_and_is_named() -> None:
    assert not find_exits(exits.loop()).exits
    with pytest.raises(RefusedError, match=r"until_sure \(Loop\) repeats layers"):
        prune(exits.loop(), exit=1)


@pytest.mark.slow
def test_one_name_in_two_bodies_means_two_things() -> None:
    model = exits.chain(4, tagged=False)
    result = prune(model, heads={"1": [0], "2": [1]}, exit=3)
    assert result.validation is not None and result.validation.passed
    assert validate(model, prune(result.model, heads={"2": [0]}).model).heads == {1: (0,), 2: (0, 1)}
    made = [name for node in result.model.graph.node for name in node.output]
    assert len(made) == len(set(made))


@pytest.mark.slow
def test_the_wrong_exit_is_seen() -> None:
    """A file that says exit 1 and was left at exit 2."""
    model = exits.nested()
    other = prune(model, exit=2).model
    claim = prune(model, exit=1).model
    for entry in other.metadata_props:
        if entry.key.startswith("onnxheadprune."):
            entry.value = next(item.value for item in claim.metadata_props if item.key == entry.key)
    found = validate(model, other)
    assert found.verdict == "failed" and "differs from the masked reference" in found.problems[0]
