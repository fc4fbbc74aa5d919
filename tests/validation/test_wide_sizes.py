"""Graphs that change their ways at a size or a value of their own are caught, whatever it is that they ask."""

from __future__ import annotations

import itertools

import pytest

from onnxheadprune import validate
from tests import attacks, toys
from tests.attacks import verdict

NUMBER = "n = Constant<value_ints = [{}]>()"
ASKED = {
    "batch": "what = Identity(batch)",
    "length": "what = Identity(length)",
    "tokens": "what = Mul(batch, length)",
    "elements": "what = Size(input_ids)",
    "mask": "axes = Constant<value_ints = [0, 1]>() what = ReduceSum<keepdims = 0>(attention_mask, axes)",
    "row of the mask": "axes = Constant<value_ints = [1]>() rows = ReduceSum<keepdims = 0>(attention_mask, axes)"
    " what = ReduceMax<keepdims = 0>(rows)",
}
COMPARED = {"is": "Equal", "is more than": "Greater"}
NUMBERS = (3, 4, 11, 12, 45, 100)
"""The graph itself holds 3, 4 and 12: numbers of heads, their size, and the width of the stream."""
BOTH = """a = Constant<value_ints = [{}]>() b = Constant<value_ints = [{}]>()
    first = {}(batch, a) second = {}(length, b) evil = And(first, second)"""


def conditions() -> dict[str, str]:
    found = {
        f"{what} {how} {number}": f"{ASKED[what]} {NUMBER.format(number)} evil = {COMPARED[how]}(what, n)"
        for what, how, number in itertools.product(ASKED, COMPARED, NUMBERS)
    }
    for (first, second), how in itertools.product(((7, 14), (23, 6), (40, 41)), COMPARED):
        compare = COMPARED[how]
        found[f"batch {how} {first} and length {how} {second}"] = BOTH.format(first, second, compare, compare)
    found["batch times three is 63"] = (
        "three = Constant<value_ints = [3]>() what = Mul(batch, three) n = Constant<value_ints = [63]>()"
        " evil = Equal(what, n)"
    )
    found["an id is 13"] = (
        f"{NUMBER.format(13)} all = Equal(input_ids, n) some = Cast<to = 7>(all) most = ReduceMax<keepdims = 0>(some)"
        " evil = Cast<to = 9>(most)"
    )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("condition", conditions().values(), ids=conditions())
def test_a_graph_that_changes_at_a_number_of_its_own_fails(condition: str) -> None:
    model = attacks.text_model()
    smaller = attacks.pruned(model)
    attacks.doubled_where(condition)(smaller)
    found = verdict(model, smaller)
    assert found.verdict == "failed", found.reason


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 37, 90])
@pytest.mark.parametrize("what", ["Identity(past)", "Add(past, length)"])
def test_a_past_of_a_number_of_its_own_fails(what: str, number: int) -> None:
    model = toys.attention(cache=True)
    smaller = attacks.pruned(model)
    past = "past = Shape<start = 2, end = 3>(past_key)"
    attacks.doubled_where(f"{past} what = {what} {NUMBER.format(number)} evil = Equal(what, n)")(smaller)
    assert verdict(model, smaller).verdict == "failed"


@pytest.mark.slow
def test_a_batch_that_only_the_pruned_graph_names_is_tried() -> None:
    model = attacks.text_model()
    smaller = attacks.pruned(model)
    attacks.doubled_where(f"{NUMBER.format(45)} evil = Equal(batch, n)")(smaller)
    assert verdict(model, smaller).verdict == "failed"


def test_the_first_line_names_the_sizes_that_were_run() -> None:
    model = attacks.text_model()
    smaller = attacks.pruned(model)
    attacks.doubled_where(f"{NUMBER.format(10**6)} evil = Equal(batch, n)")(smaller)
    found = validate(model, smaller, provider="cpu")
    assert found.verdict == "passed"
    compared = [case for case in found.cases if case.settings == "exact" and case.finite]
    batches, lengths = ([case.shapes["input_ids"][axis] for case in compared] for axis in (0, 1))
    spans = f"lengths {min(lengths)} to {max(lengths)}, batches {min(batches)} to {max(batches)};"
    feeds = sum(case.feeds for case in compared)
    assert found.reason.startswith(f"the graph is not the planned one; equal on {feeds} inputs, {spans}")
