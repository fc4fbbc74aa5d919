"""Every reason that a test of this folder meets is checked against the graph it speaks of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from onnxheadprune.attention.sites import find
from tests.attention.reasons import check_reasons

MOST = 4
"""Graphs of one test whose reasons are checked."""


@pytest.fixture(autouse=True)
def reasons_are_true(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    met: dict[bytes, tuple[Any, Any, Any]] = {}
    search = find.find_structural

    def watched(view: Any, *others: Any) -> Any:
        sites, left = search(view, *others)
        if (left.near_misses or left.no_heads or any(site.reason for site in sites)) and len(met) < MOST:
            met.setdefault(view.model.SerializeToString(), (view, sites, left))
        return sites, left

    monkeypatch.setattr(find, "find_structural", watched)
    yield
    # A check may search again.
    for view, sites, left in list(met.values()):
        check_reasons(view, sites, left)
