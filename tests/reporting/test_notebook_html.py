"""Results in a notebook: short, well-formed, with names as text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import pytest

import onnxheadprune as ohp
from onnxheadprune import GridPoint, HeadScores, SiteScores
from onnxheadprune.model.display import MOST_ROWS, html_of
from onnxheadprune.model.facts import Table
from tests.graphs import toys
from tests.reporting.html_reader import Read
from tests.reporting.made_results import benchmark_result, curve_result

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


def test_a_cut_says_what_went_and_whether_it_was_proven(cut: ohp.PruneResult) -> None:
    text = read(cut).text
    assert "exact" in text and "4 2 -50 %" in " ".join(text.split()) and "passed" in text and "1,3" in text
    assert text.count("\N{MULTIPLICATION SIGN}") == 2
    # The details of --verbose, from the same facts.
    assert "tensor cuts" in text and "kept, not named" in cut._repr_html_()
    assert "nothing was written" in read(replace(cut, validation=None)).text


def test_a_validation_has_its_cases(cut: ohp.PruneResult) -> None:
    assert cut.validation is not None
    found = read(cut.validation)
    assert "passed" in found.text and found.tags.count("tr") == len(cut.validation.cases) + 1 + 3
    wrong = replace(cut.validation, verdict="failed", problems=("first", "second"))
    assert "failed" in read(wrong).text and "second" in read(wrong).text


def test_sites_have_a_row_each_and_say_what_cannot_go() -> None:
    sites = ohp.inspect(toys.attention())
    assert "1 attention site, 4 heads" in read(sites).text and "yes" in read(sites).text
    assert f"and {40 - MOST_ROWS} more" in read(replace(sites, sites=sites.sites * 40)).text


def test_a_benchmark_compares() -> None:
    result = benchmark_result(["/a/m.onnx", "/b/m.onnx"], [GridPoint(1, 128), GridPoint(8, 128)])
    found = read(result)
    assert "a/m.onnx" in found.text and "1.20x" in found.text and "faster" in found.text
    assert found.tags.count("tr") == 5 + 3 + 5


def test_a_curve_has_a_row_per_cut() -> None:
    curve = curve_result()
    found = read(curve)
    assert found.tags.count("tr") == len(curve.points) + 1 and found.text.count("knee") == 1


def test_scores_are_squares() -> None:
    scores = HeadScores("weight", "norm", "m.onnx", (SiteScores(0, "attn", (1.0, 2.0, None)),))
    page = scores._repr_html_()
    assert "rgba(0,114,178,0.10)" in page and "rgba(0,114,178,1.00)" in page and 'title="head 1: 2"' in page
    assert "heads scored by weight" in read(scores).text


def test_names_are_text(cut: ohp.PruneResult) -> None:
    sites = ohp.inspect(toys.attention())
    evil_site = replace(sites.sites[0], name=EVIL)
    assert cut.validation is not None
    results: list[Any] = [
        replace(cut, plan=replace(cut.plan, model=EVIL, cuts=(replace(cut.plan.cuts[0], name=EVIL),))),
        replace(cut.validation, original=EVIL, problems=("", EVIL), notes=(EVIL,)),
        replace(sites, model=EVIL, sites=(evil_site,)),
        benchmark_result([EVIL, f"{EVIL}2"], [GridPoint(1, 128)]),
        curve_result(EVIL),
        HeadScores(EVIL, EVIL, EVIL, (SiteScores(0, EVIL, (1.0,)),)),
    ]
    for result in results:
        found = read(result)
        assert "<script>alert(1)<b>" in found.text, type(result)
        assert "\x1b" not in found.text and "\u202e" not in found.text and "\\x1b[31m" in found.text


def test_an_unclosed_element_is_noticed() -> None:
    with pytest.raises(AssertionError):
        Read("<table><tr></table>")
    assert html_of(Table(("a",), ())) == ""


@pytest.mark.slow
def test_a_sweep_is_one_call() -> None:
    random = np.random.default_rng(0)
    feeds = [{"x": random.normal(size=(4, 3, toys.HIDDEN)).astype(np.float32)} for _ in range(10)]
    curve = ohp.sweep(toys.attention(), (0, 0.5), data=feeds, provider="cpu")
    assert [point.removed for point in curve.points] == [0, 2]
    before, after = (point.elements for point in curve.points)
    assert curve.elements == before and before is not None and after is not None and after < before
    assert curve.to_dict()["points"][1]["elements"] == after
    for wrong in ((), (0.5, 0), (1.5,), "0:2:1"):
        with pytest.raises(ohp.UsageError, match="upwards between 0 and 1"):
            ohp.sweep(toys.attention(), wrong, data=feeds)
