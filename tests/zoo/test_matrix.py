"""Architectures of the zoo, exported here and now, without some units of each kind: what PyTorch says."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")

from tests.zoo.known import reason_for
from tests.zoo.row import HEADS, Outcome, Row

if TYPE_CHECKING:
    from tests.zoo.store import Store

pytestmark = pytest.mark.samples

EXACT_SHARE = 0.95
BUILT_SHARE = 0.8
"""Of the folders; some exporters cannot do some models, and some steps do not apply."""
ASKED_SHARE = 0.8
"""Of the cuts; some maps are not stored as the module has them."""


def test_pruned_is_silenced(store: Store, graph: tuple[str, str]) -> None:
    from tests.zoo.store import NotBuiltError

    try:
        row = store.row(*graph)
    except NotBuiltError as problem:
        pytest.skip(str(problem))
    if row.verdicts[HEADS].outcome is Outcome.UNEXPECTED or (row.gap and not row.failures):
        # Not found, or refused without need: a gap that is reported. What must never be is a wrong model.
        pytest.xfail(str(row))
    assert not row.problems or reason_for(row), str(row)


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
    removable = [row for row in rows if is_fp32(row.variant) and store.cases[row.case].expect == "exact"]
    exact = [row for row in removable if row.verdicts[HEADS].outcome.is_exact]
    assert len(exact) >= EXACT_SHARE * len(removable)


def test_every_cache_is_decoded_with(store: Store, rows: list[Row], request: pytest.FixtureRequest) -> None:
    def has_cache(case: str, variant: str) -> bool:
        return variant == "ts17" and bool(store.cases[case].caches)

    cached = [row for row in rows if has_cache(row.case, row.variant)]
    assert cached or not any(has_cache(*graph) for graph in graphs_of(request.session))
    assert all(row.verdicts[HEADS].steps for row in cached), list(map(str, cached))


def test_oracles_are_asked(store: Store, rows: list[Row]) -> None:
    """Nearly all cuts of float32 graphs are compared with PyTorch, and most cuts of heads with the second mask."""
    from tests.zoo.selection import is_fp32

    units = [verdict for row in rows if is_fp32(row.variant) for verdict in row.verdicts.values()]
    heads = [row.verdicts[HEADS] for row in rows]
    assert sum(verdict.torch for verdict in units) >= ASKED_SHARE * sum(verdict.equal for verdict in units)
    assert sum(verdict.second for verdict in heads) >= ASKED_SHARE / 2 * sum(
        verdict.equal for verdict in heads
    )
