"""The tests that only `--all` runs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from hypothesis import settings

from tests.conftest import PROPERTIES, each_choice


@dataclass(frozen=True)
class Pair:
    first: str
    second: str


def _table(*rows: dict[str, Any]) -> list[Any]:
    return [SimpleNamespace(callspec=SimpleNamespace(params=row)) for row in rows]


def test_each_value_comes_up_and_few_come_up_twice() -> None:
    names, sizes = ["a", "b", "c"], [[1], [2]]
    table = _table(*({"name": name, "size": size} for name, size in itertools.product(names, sizes)))
    drawn = list(each_choice(table))  # type: ignore[arg-type]
    assert [item.callspec.params for item in drawn] == [
        {"name": "a", "size": [1]},
        {"name": "b", "size": [2]},
        {"name": "c", "size": [1]},
    ]


def test_a_table_of_one_parameter_is_drawn_whole_unless_it_has_fields() -> None:
    table = _table({"name": "a"}, {"name": "b"})
    assert list(each_choice(table)) == table  # type: ignore[arg-type]
    pairs = [Pair(*pair) for pair in itertools.product("ab", "cd")]
    drawn = list(each_choice(_table(*({"pair": pair} for pair in pairs))))  # type: ignore[arg-type]
    assert [item.callspec.params["pair"] for item in drawn] == [Pair("a", "c"), Pair("b", "d")]


def test_properties_have_one_budget() -> None:
    assert settings().max_examples in {budget.max_examples for budget in PROPERTIES.values()}
