"""Reasons are claims: what a near miss or a site says of any row is true of its graph."""

from __future__ import annotations

import pytest

from onnxheadprune.attention.sites.structural import find_structural
from onnxheadprune.operators import view_of
from tests.graphs.table import Row
from tests.laws.cutting import ROWS
from tests.laws.reasons import check_reasons

REASONED = [
    row for row in ROWS.values() if row.missed or row.no_heads or any(site.reason for site in row.found)
]


@pytest.mark.parametrize("row", REASONED, ids=str)
def test_reasons_are_true(row: Row) -> None:
    view = view_of(row.model)
    sites, left = find_structural(view)
    check_reasons(view, sites, left)
