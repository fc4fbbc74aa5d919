"""The legal sets that a refusal offers are the nearest ones, against all sets of a site."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import combinations

import pytest

from onnxheadprune import RefusedError, inspect
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.attention.specs import check_legal, parsed
from tests.graphs.table import Found, Row, table

FEW = 8
"""Units of a site of which every set is tried."""


def _has_illegal_sets(said: Found) -> bool:
    return len(said.sets) > 1 and any(len(units) > 1 for units in said.sets)


ROWS = [row for row in table().values() if row.legal and any(map(_has_illegal_sets, row.sites))]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_nearest_legal_sets_are_offered(row: Row) -> None:
    """The smallest one that holds what is asked for, and the largest one in it; all units of a site are not offered."""
    for site in inspect(row.model):
        if site.reason is not None or site.num_units > FEW:
            continue
        sizes, numbers = range(1, site.num_units), range(site.num_units)
        every = [frozenset(units) for size in sizes for units in combinations(numbers, size)]
        sentences = {units: _against(site, units) for units in every}
        legal = [units for units, said in sentences.items() if not said]
        for units, said in sentences.items():
            listed = re.search("nearest legal sets are (.*)$", said)
            options = listed[1].split(" or ") if listed else []
            offered = [frozenset(parsed(f"0:{option}")["0"] or ()) for option in options]
            larger = sorted(len(some) for some in legal if said and some > units)
            smaller = sorted(len(some) for some in legal if said and some < units)
            assert {*offered} <= {*legal}, said
            assert {len(some) for some in offered if some > units} == {*larger[:1]}, said
            assert {len(some) for some in offered if some < units} == {*smaller[-1:]}, said


def _against(site: Site, units: Collection[int]) -> str:
    try:
        check_legal(site, units)
    except RefusedError as error:
        return str(error)
    return ""
