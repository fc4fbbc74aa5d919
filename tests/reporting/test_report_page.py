"""`--report` and `report`: a page says what the terminal says, is made from any saved document, and refuses others."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxheadprune as ohp
from onnxheadprune import GridPoint, HeadScores, SiteScores
from onnxheadprune.display.facts import Curves, Fact, Facts, Figures, Intervals, Strip, Table, UnitMap
from onnxheadprune.reporting.page import Result, page_of
from onnxheadprune.settings.words import option, spelled_by
from tests.benchmarking.made_results import benchmark_result
from tests.conftest import Command
from tests.graphs import toys
from tests.reporting.html_reader import Read
from tests.reporting.made_curves import curve_result

DOCUMENTS = {
    "inspect": "inspect toy.onnx",
    "inspect of a folder": "inspect folder",
    "prune": "prune toy.onnx --heads 0:1 -o prune.onnx",
    "validate": "validate toy.onnx cut.onnx",
    "bench": "bench toy.onnx cut.onnx --batch 1 --repeats 7 --no-memory",
    "sweep": "sweep toy.onnx 0:0.5:0.5 --data random",
    "quantize": "quantize toy.onnx -o quantize.onnx --to int8-dynamic",
    "batch": "batch folder -o batch --heads 0:1",
}


def words(text: str) -> str:
    return " ".join(text.split())


def made() -> list[Facts]:
    """The facts of each kind of result."""
    cut = ohp.prune(toys.attention(), heads="0:1,3")
    assert cut.validation is not None
    scores = HeadScores("weight", "norm", "m.onnx", (SiteScores(0, "attn", (1.0, 2.0, None)),))
    timed = benchmark_result(["/a/m.onnx", "/b/m.onnx"], [GridPoint(1, 128), GridPoint(8, 128)])
    return [item.facts() for item in (cut, cut.validation, scores, timed, curve_result())]


def said(facts: Facts) -> list[str]:
    """Every text of a result but those of its plots."""
    found = [facts.title, facts.answer]
    for part in facts.everything:
        if isinstance(part, Fact):
            found += [part.label, part.text]
        elif isinstance(part, Figures):
            found += [text for row in part.rows for text in (row.name, row.before, row.after, row.note)]
        elif isinstance(part, Table):
            found += [getattr(cell, "text", cell) for cells in (part.columns, *part.rows) for cell in cells]
        elif isinstance(part, UnitMap):
            found += [strip.name for strip in part.strips]
    return list(map(words, found))


@pytest.mark.parametrize("has_plots", [True, False])
def test_a_page_says_all_of_every_result(has_plots: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_plots:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    for facts in made():
        read = Read(page_of([Result(facts, {"command": "onnxheadprune x", "machine": {"cores": 2}})]))
        text = words(read.text)
        assert [missing for missing in said(spelled_by(option, facts)) if missing not in text] == []
        assert "onnxheadprune x" in text and "cores 2" in text
        plots = [part for part in facts.everything if isinstance(part, (UnitMap, Curves, Intervals))]
        assert read.tags.count("svg") == len(plots) * has_plots


def test_a_page_loads_nothing_and_runs_nothing() -> None:
    strips = tuple(Strip(f"attn.{site}", "a", tuple(map(float, range(32)))) for site in range(6))
    facts = Facts("large.onnx", parts=(UnitMap("heads", strips, ""), curve_result().plot()))
    page = page_of([Result(facts)])
    read = Read(page)
    assert len(page.encode()) < 1_000_000 and not {"script", "img", "image", "link"} & set(read.tags)
    for _, attributes in read.elements:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "http" not in page.replace("http-equiv", "") and "#000000" not in page


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in ("sweep", "bench"))) for name in DOCUMENTS],
)
def test_each_document_makes_a_page(
    name: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_in_process: None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for place in ("toy.onnx", "folder/toy.onnx"):
        onnx.save(toys.attention(), place)
    if "cut.onnx" in DOCUMENTS[name]:
        ohp.prune("toy.onnx", "cut.onnx", heads="0:1")
    outcome = command(*shlex.split(DOCUMENTS[name]), "--json")
    assert outcome.exit_code == 0, outcome.stderr
    Path("saved.json").write_text(outcome.stdout, encoding="utf-8")
    told = command("report", "saved.json", "saved.json", "-o", "page.html", "--json").document
    page = Path("page.html")
    assert told == {"output": "page.html", "bytes": page.stat().st_size, "results": 2}
    text = words(Read(page.read_text(encoding="utf-8")).text)
    assert text.count(words(outcome.document["facts"]["title"])) >= 4, "in the list, and above its section"


WRONG: dict[str, Any] = {
    "another state": {"state": '"><script>'},
    "another part": {"parts": [{"label": "a"}]},
    "a row that is too short": {
        "parts": [{"columns": ["a", "b"], "rows": [["1"]], "numeric": [], "wraps": [], "title": ""}]
    },
    "a removed head that is none": {
        "parts": [
            {
                "units": "heads",
                "strips": [{"key": "0", "name": "a", "scores": [1.0], "gone": [7]}],
                "unscored": "",
                "scale": "",
                "title": "",
            }
        ]
    },
}


@pytest.mark.parametrize("wrong", WRONG)
def test_facts_of_no_result_are_refused(wrong: str, command: Command, tmp_path: Path) -> None:
    facts = {"title": "t", "answer": "", "state": "", "parts": [], "details": []}
    path, page = tmp_path / "saved.json", tmp_path / "page.html"
    path.write_text(json.dumps({"facts": facts}), encoding="utf-8")
    assert command("report", path, "-o", page).exit_code == 0
    path.write_text(json.dumps({"facts": facts | WRONG[wrong]}), encoding="utf-8")
    refused = command("report", path, "-o", page)
    assert refused.exit_code == 2 and "is not as this version writes it" in refused.stderr


def test_names_from_a_model_are_text() -> None:
    evil = '"><script>alert(1)</script>\x1b[31m\u202ename$\\frac{'
    strips = (Strip(evil, evil, (1.0, None), (0,)),)
    table = Table((evil,), ((evil,),), title=evil)
    parts = (table, Fact(evil, evil), UnitMap(evil, strips, evil, evil, evil), curve_result(evil).plot())
    page = page_of([Result(Facts(evil, evil, parts=parts), {evil: evil})] * 2)
    read = Read(page)
    assert "script" not in read.tags and "\x1b" not in page and "\u202e" not in page
    assert "<script>alert(1)</script>" in read.text and "\\x1b[31m" in read.text and "\\u202e" in read.text
