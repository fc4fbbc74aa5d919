"""Results in a notebook: short, well-formed, with names as text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import pytest

import onnxheadprune as ohp
from onnxheadprune import GridPoint, HeadScores, SiteScores
from onnxheadprune.display.html import MOST_ROWS
from tests.benchmarking.made_results import benchmark_result
from tests.graphs import toys
from tests.reporting.html_reader import Read
from tests.reporting.made_curves import curve_result

EVIL = '"><script>alert(1)<b>\x1b[31m\u202ename'
LONGEST = 20_000
"""Characters of a result with dozens of sites."""


class Shown(Protocol):
    def _repr_html_(self) -> str: ...


def read(result: Shown) -> Read:
    page = result._repr_html_()
    assert len(page) < LONGEST
    found = Read(page)
    assert not {"script", "style", "img", "link"} & set(found.tags)
    return found


@pytest.fixture(scope="module")
def cut() -> ohp.PruneResult:
    return ohp.prune(toys.attention(), heads="0:1,3")


def test_sites_have_a_row_each_and_say_what_cannot_go() -> None:
    sites = ohp.inspect(toys.attention())
    assert "1 attention site, 4 heads" in read(sites).text and "yes" in read(sites).text
    assert f"and {40 - MOST_ROWS} more" in read(replace(sites, sites=sites.sites * 40, loaded=None)).text


def test_names_are_text(cut: ohp.PruneResult) -> None:
    sites = ohp.inspect(toys.attention())
    evil_site = replace(sites.sites[0], name=EVIL)
    assert cut.validation is not None
    results: list[Any] = [
        replace(cut, plan=replace(cut.plan, model=EVIL, cuts=(replace(cut.plan.cuts[0], name=EVIL),))),
        replace(cut.validation, original=EVIL, problems=("", EVIL), notes=(EVIL,)),
        replace(sites, model=EVIL, sites=(evil_site,), loaded=None),
        benchmark_result([EVIL, f"{EVIL}2"], [GridPoint(1, 128)]),
        curve_result(EVIL),
        HeadScores(EVIL, EVIL, EVIL, (SiteScores(0, EVIL, (1.0,)),)),
    ]
    for result in results:
        found = read(result)
        assert "<script>alert(1)<b>" in found.text, type(result)
        assert "\x1b" not in found.text and "\u202e" not in found.text and "\\x1b[31m" in found.text
