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
from tests.liveness.one_node import check_drawn, check_in_runs
from tests.liveness.strategies import EXEMPT, STRATEGIES, Key
from tests.operator_records import RULES

FEW = settings(max_examples=settings().max_examples // 4)
"""For what another test of the same rule and strategy asks, too."""
OPEN_BUGS: dict[Key, str] = {}
"""Ops with a known bug, pinned in test_rule_counterexamples.py; the entry goes with the fix."""


def _first(key: Key) -> Key:
    """The first operator with the same rule and strategy."""
    return next(other for other in RUNNABLE if _law(other) == _law(key))


def _law(key: Key) -> tuple[object, object]:
    record = OPERATORS[".".join(key).strip(".")]
    return record.axes or record.rule, STRATEGIES[key]


def _params(keys: Sequence[Key] = RUNNABLE) -> list[Any]:
    params = []
    for key in keys:
        marks = [pytest.mark.xfail(strict=False, reason=OPEN_BUGS[key])] if key in OPEN_BUGS else []
        params.append(pytest.param(key, marks=marks, id=".".join(key).strip(".")))
    return params


def test_every_rule_has_a_strategy() -> None:
    missing = sorted(set(RULES) - set(STRATEGIES) - set(EXEMPT))
    assert not missing, f"liveness rules without a strategy in tests/liveness/cases_*.py: {missing}"


def test_no_strategy_is_left_over() -> None:
    assert set(STRATEGIES) | set(EXEMPT) <= set(RULES)
    assert not set(STRATEGIES) & set(EXEMPT)


@pytest.mark.parametrize("key", _params())
def test_rule_commutes_with_gather(key: Key) -> None:
    """Rules that answer few demands are asked until one is answered, whatever Hypothesis draws first."""
    outcomes: Counter[bool] = Counter()

    def commutes(data: st.DataObject) -> None:
        case = STRATEGIES[key](data.draw, key[1])
        outcomes[check_drawn(case, data.draw)] += 1

    for budget in (settings() if key == _first(key) else FEW, settings(max_examples=200)):
        if not outcomes[True]:
            budget(given(st.data())(commutes))()
    assert outcomes[True] > 0, f"the rule of {key} was hardly ever asked: {dict(outcomes)}"


@pytest.mark.parametrize("key", _params([key for key in RUNNABLE if key == _first(key)]))
def test_rule_commutes_with_gather_in_runs(key: Key) -> None:
    """Entries along an axis of unknown length stand for rows of it, which a rule may refuse to pass on."""

    @FEW
    @given(st.data())
    def commutes(data: st.DataObject) -> None:
        check_in_runs(STRATEGIES[key](data.draw, key[1]), data.draw)

    commutes()
