"""Every architecture of the zoo, exported here and now, pruned and compared with PyTorch."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")

from tests.zoo.row import Outcome, Row

if TYPE_CHECKING:
    from tests.zoo.store import Store

pytestmark = pytest.mark.samples

EXACT_SHARE = 0.95
BUILT_SHARE = 0.8
"""Of the folders; some exporters cannot do some models, and some steps do not apply."""


def test_pruned_is_silenced(store: Store, graph: tuple[str, str]) -> None:
    from tests.zoo.store import NotBuiltError

    try:
        row = store.row(*graph)
    except NotBuiltError as problem:
        pytest.skip(str(problem))
    if row.outcome is Outcome.UNEXPECTED:
        # Not found, or refused without need: a gap that is reported. What must never be is a wrong model.
        pytest.xfail(str(row))
    assert not row.outcome.is_failure, str(row)


@pytest.fixture
def rows(store: Store, request: pytest.FixtureRequest) -> list[Row]:
    """Rows of the folders of this run that can be built; tests of single folders have made them already."""
    from tests.zoo.store import NotBuiltError

    rows = []
    for graph in graphs_of(request.session):
        with contextlib.suppress(NotBuiltError):
            rows.append(store.row(*graph))
    return rows


def graphs_of(session: pytest.Session) -> list[tuple[str, str]]:
    """Case and variant of all folders that this run compares."""
    return [
        item.callspec.params["graph"]
        for item in session.items
        if isinstance(item, pytest.Function) and item.originalname == test_pruned_is_silenced.__name__
    ]


def test_nearly_all_float32_graphs_are_exact(
    store: Store, rows: list[Row], request: pytest.FixtureRequest
) -> None:
    from tests.zoo.selection import is_fp32

    assert len(rows) >= BUILT_SHARE * len(graphs_of(request.session))
    wrong = [str(row) for row in rows if row.outcome is Outcome.WRONG]
    assert not wrong
    removable = [row for row in rows if is_fp32(row.variant) and store.cases[row.case].expect == "exact"]
    exact = [row for row in removable if row.outcome.is_exact]
    assert len(exact) >= EXACT_SHARE * len(removable)


def test_every_cache_is_decoded_with(store: Store, rows: list[Row], request: pytest.FixtureRequest) -> None:
    """Some parts of the folders have none with a cache; all together have."""
    from tests.zoo.selection import selected

    def has_cache(case: str, variant: str) -> bool:
        return variant == "ts17" and bool(store.cases[case].caches)

    assert any(has_cache(*graph) for graph in selected(list(store.cases.values())))
    cached = [row for row in rows if has_cache(row.case, row.variant)]
    assert cached or not any(has_cache(*graph) for graph in graphs_of(request.session))
    assert all(row.steps for row in cached), [str(row) for row in cached if not row.steps]
