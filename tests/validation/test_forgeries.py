"""A cut that damages its output where a quantity meets a number fails, however the number is spelled."""

from __future__ import annotations

import itertools

import pytest

from tests import attacks
from tests.forgeries import DAMAGES, QUANTITIES, SPELLINGS, forged

EVERY = [
    (*pair, list(DAMAGES)[index % len(DAMAGES)])
    for index, pair in enumerate(itertools.product(SPELLINGS, QUANTITIES))
]
FIRST = {damage: (spelling, quantity, damage) for spelling, quantity, damage in reversed(EVERY)}
"""One forgery of each kind of damage."""


@pytest.mark.parametrize(
    ("spelling", "quantity", "damage"),
    [pytest.param(*case, marks=[] if case in FIRST.values() else [pytest.mark.slow]) for case in EVERY],
)
def test_a_forgery_fails(spelling: str, quantity: str, damage: str) -> None:
    model, smaller = forged(quantity, spelling, damage)
    found = attacks.verdict(model, smaller)
    assert found.verdict == "failed", found.reason


ODD = {
    "a sample without a token": """most = ReduceMax<axes = [1], keepdims = 0>(attention_mask)
        least = ReduceMin<keepdims = 0>(most) some = Cast<to = 9>(least) evil = Not(some)""",
    "the last id of a table": """least = ReduceMin<keepdims = 0>(input_ids) n = Constant<value_int = 13>()
        evil = Greater(least, n)""",
    "a negative id": """least = ReduceMin<keepdims = 0>(input_ids) n = Constant<value_int = 0>()
        evil = Less(least, n)""",
    "an id as low as can be": """least = ReduceMin<keepdims = 0>(input_ids) n = Constant<value_int = -18>()
        evil = Less(least, n)""",
}


@pytest.mark.parametrize("condition", ODD.values(), ids=ODD)
def test_inputs_at_the_ends_of_what_is_allowed_are_run(condition: str) -> None:
    model = attacks.text_model()
    smaller = attacks.pruned(model)
    attacks.doubled_where(condition)(smaller)
    found = attacks.verdict(model, smaller)
    assert found.verdict == "failed", found.reason


def test_numbers_that_are_not_tried_are_counted() -> None:
    model = attacks.text_model()
    smaller = attacks.pruned(model)
    numbers = ", ".join(str(2000 + index) for index in range(9))
    listed = f"all = Constant<value_ints = [{numbers}]>() sum = ReduceSum<keepdims = 0>(all)"
    attacks.doubled_where(f"{listed} evil = Equal(length, sum)")(smaller)
    found = attacks.verdict(model, smaller)
    assert found.exact == "tried"
    assert any(
        note.startswith("10 numbers that only its graph holds were not tried as sizes")
        for note in found.notes
    )
