"""One property over the whole registry of liveness rules: `op(gather(x)) == gather(op(x))`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxheadprune.model.graph.operator import OPERATORS
from tests.liveness.all_strategies import RUNNABLE
from tests.liveness.one_node import Case, check_drawn, check_in_runs, check_unknown, unsized
from tests.liveness.strategies import EXEMPT, STRATEGIES, Key
from tests.liveness.whole_numbers import UNDRAWN, Drawn, numbers_of
from tests.model.operator_records import RULES

FEW = settings(max_examples=settings().max_examples // 4)
"""For what another test of the same rule and strategy asks, too."""


def _first(key: Key) -> Key:
    """The first operator with the same rule and strategy."""
    return next(other for other in RUNNABLE if _law(other) == _law(key))


def _law(key: Key) -> tuple[object, object]:
    record = OPERATORS[".".join(key).strip(".")]
    return record.axes or record.rule, STRATEGIES[key]


def _params(keys: Sequence[Key] = RUNNABLE) -> list[Any]:
    return [pytest.param(key, id=".".join(key).strip(".")) for key in keys]


def test_every_rule_has_a_strategy() -> None:
    missing = sorted(set(RULES) - set(STRATEGIES) - set(EXEMPT))
    assert not missing, f"liveness rules without a strategy in tests/liveness/cases_*.py: {missing}"


def test_no_strategy_is_left_over() -> None:
    assert set(STRATEGIES) | set(EXEMPT) <= set(RULES)
    assert not set(STRATEGIES) & set(EXEMPT)


@pytest.mark.parametrize("key", _params())
def test_rule_commutes_with_gather(key: Key) -> None:
    """Rules that answer few demands are asked until one is answered, whatever Hypothesis draws first.

    Whatever names positions by number is renumbered or refused: the strategy draws every number of the operator.
    """
    outcomes: Counter[bool] = Counter()
    numbers = Drawn(key)

    def case(data: st.DataObject) -> Case:
        made = STRATEGIES[key](data.draw, key[1])
        numbers.note(made)
        return made

    def commutes(data: st.DataObject) -> None:
        outcomes[check_drawn(case(data), data.draw)] += 1

    def draws(data: st.DataObject) -> None:
        case(data)

    more = settings(max_examples=200)
    for budget in (settings() if key == _first(key) else FEW, more):
        if not outcomes[True]:
            budget(given(st.data())(commutes))()
    assert outcomes[True] > 0, f"the rule of {key} was hardly ever asked: {dict(outcomes)}"
    for budget in (settings(max_examples=20), more):
        if numbers.fixed:
            budget(given(st.data())(draws))()
    assert numbers.fixed == set()


def test_no_excuse_is_left_over() -> None:
    names = {(key[1], name) for key in RUNNABLE for name in numbers_of(key)}
    assert set(UNDRAWN) <= names


@pytest.mark.parametrize("key", _params([key for key in RUNNABLE if key == _first(key)]))
def test_rule_commutes_with_gather_in_runs(key: Key) -> None:
    """Entries along an axis of unknown length stand for rows of it, which a rule may refuse to pass on."""

    @FEW
    @given(st.data())
    def commutes(data: st.DataObject) -> None:
        check_in_runs(STRATEGIES[key](data.draw, key[1]), data.draw)

    commutes()


UNSIZED: dict[Key, set[int]] = {
    ("", "Resize"): {0},
    ("com.microsoft", "CausalConvWithState"): {1},
    ("com.microsoft", "GroupQueryAttention"): {1, 2},
}
"""Outputs as long as computed scales, a number of tokens in the data or a state that is not given say."""


@pytest.mark.parametrize(
    "key", _params([key for key in RUNNABLE if OPERATORS[".".join(key).strip(".")].shape])
)
def test_sizes_are_known_where_those_of_inputs_are(key: Key) -> None:
    """An operator's record tells every size of its outputs where a model declares every size of its inputs."""

    @FEW
    @given(st.data())
    def told(data: st.DataObject) -> None:
        case = STRATEGIES[key](data.draw, key[1])
        assert case.symbolic or unsized(case) <= UNSIZED.get(key, set())

    told()


@pytest.mark.parametrize("key", _params([key for key in RUNNABLE if key == _first(key)]))
def test_rule_never_guesses_what_a_model_does_not_say(key: Key) -> None:
    """With one shape, size, stored number or attribute unknown, a rule refuses, or cuts what ONNX Runtime computes."""

    @FEW
    @given(st.data())
    def exact(data: st.DataObject) -> None:
        check_unknown(STRATEGIES[key](data.draw, key[1]), data.draw)

    exact()
