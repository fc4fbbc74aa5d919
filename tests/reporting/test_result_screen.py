"""One screen: the answer leads, figures and remarks follow in one order, and every writer shows the same ones."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.display.facts import Fact, Facts, Figure, Figures
from onnxheadprune.display.html import html_of
from onnxheadprune.display.markdown import markdown_of
from onnxheadprune.reporting.console import Console
from onnxheadprune.reporting.plan import answer_report
from onnxheadprune.runtime.feeds.data import RANDOM_INPUTS
from onnxheadprune.settings.words import option, spelled_by
from onnxheadprune.validation.headline import headline_of
from onnxheadprune.validation.summary import result_of
from tests.reporting.made_documents import cut_document

WIDTHS = (50, 80, 120)
HELD: dict[str, Any] = {
    "measured_on": "held-out data, which neither refit nor training has seen (16 of 256 samples)",
    "held_out": True,
    "seen_by": None,
}
ACCURACY = {"output": "y", "count": 16, "original": 1.0, "pruned": 1.0, **HELD}
DRIFT = {
    "source": "data",
    "output": "y",
    "max": 0.1,
    "mean": 0.01,
    "cosine": 0.999,
    "top1_agreement": 1.0,
    "measure": "kl",
    "value": 0.000151,
    **HELD,
    "samples": 16,
}
RANDOM = {**DRIFT, "source": "random", **vars(RANDOM_INPUTS)}
REFITS = {"refits": [{"skipped": "no data reaches it"}] * 3, "samples": 0, "data": "0" * 64}


def cut(**changed: Any) -> dict[str, Any]:
    """A cut of half of the heads; keys of its validation, its choice and its plan go where they belong."""
    document = cut_document()
    for name, value in changed.items():
        inner = next(
            (part for part in ("validation", "choice", "plan") if name in (document[part] or ())), None
        )
        (document if inner is None else document[inner])[name] = value
    return document


def facts_of(document: dict[str, Any], *gates: Gate) -> Facts:
    document = {**document, "gates": [gate.to_dict() for gate in gates]}
    return result_of(document, headline_of([document["validation"]], gates)).facts()


def figures(facts: Facts) -> dict[str, Figure]:
    return {row.name: row for part in facts.parts if isinstance(part, Figures) for row in part.rows}


def printed(facts: Facts, width: int = 80) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=width).print(*answer_report(facts, "onnxheadprune bench a b"), sep="\n")
    return text.getvalue().splitlines()


KEPT = Gate("max_drift", "the cut", 0.01, 0.001, True, "kl")
BLIND = {"heads": {}, "basis": "weights (no data was given)", "scores": {}}
TRIED = {"sentence": "the graph is not the planned one; equal on 46 inputs", "inputs": 46, "sizes": {}}
ANSWERS: dict[str, tuple[dict[str, Any], str]] = {
    "on data": (
        cut(accuracy=ACCURACY, drift=DRIFT),
        "exact, 25 % fewer operations, accuracy unchanged on 16 held-out labels",
    ),
    "half": (
        cut(
            accuracy={**ACCURACY, "pruned": 0.9375},
            operations={"before": 200, "after": 101, "shapes": {}, "complete": True},
        ),
        "exact, half of the operations, accuracy 100.0 % -> 93.8 % on 16 held-out labels",
    ),
    "no labels": (cut(drift=DRIFT), "exact, 25 % fewer operations, drift 0.0002 KL on 16 held-out samples"),
    "no data": (cut(drift=RANDOM), "exact, 25 % fewer operations, its effect on your task is unknown"),
    "chosen without data": (
        cut(selection=BLIND),
        "exact, 25 % fewer operations, chosen without data, its effect on your task is unknown",
    ),
    "ruined": (
        cut(accuracy={**ACCURACY, "pruned": 0.25}),
        "exact, 25 % fewer operations, not good enough: accuracy 100.0 % -> 25.0 % on 16 held-out labels",
    ),
    "no proof": (
        cut(validation=None, operations=None),
        "not checked whether it is exact, 24 % smaller, its effect on your task is unknown",
    ),
    "planned": (cut(validation=None, output=None, file_bytes=None), "planned, nothing was written, "),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_first_sentence_answers(name: str) -> None:
    document, answer = ANSWERS[name]
    assert facts_of(document).answer.startswith(answer)
    assert "no limits given" not in "\n".join(printed(facts_of(document)))


def test_figures_stand_in_one_order_and_say_what_was_not_measured() -> None:
    order = ["heads", "operations", "file", "accuracy", "drift"]
    assert list(figures(facts_of(cut(accuracy=ACCURACY, drift=DRIFT)))) == order
    bare = figures(facts_of(cut(drift=RANDOM)))
    assert list(bare) == order
    assert bare["accuracy"].note == "not measured: give labels in `data`" and not bare["accuracy"].before
    assert bare["drift"] == Figure("drift", "0.0002 KL", note="random inputs")
    assert bare["operations"] == Figure("operations", "8.00 M", "6.00 M", "-25 %", "at 2 x 8")


TRAINED = {"selection": {"basis": "measured drift"}, "recovery": {"rejected": "no step was better"}}
REMARKS: dict[str, tuple[dict[str, Any], str]] = {
    "refit": (cut(compensation=REFITS), "nothing was refitted, of 3 linear layers: no data reaches it"),
    "training": (cut(choice=TRAINED), "nothing was recovered: no step was better"),
    "interface": (cut(io_changes=["past: 4 -> 3", "present: 4 -> 3"]), "past: 4 -> 3; and 1 more"),
    "metadata": (cut(notes=["its metadata is gone"]), "its metadata is gone"),
    "warnings": (cut(warnings=["the file grows"]), "the file grows"),
    "tried": (
        cut(exact="tried", structure={"identical": False, "nodes": 4, "same": 3, "count": 1}),
        "tried: the graph is not the planned one; equal on 46 inputs",
    ),
}
REMARKS["tried"][0]["validation"]["tried"] = TRIED


@pytest.mark.parametrize("name", REMARKS)
@pytest.mark.parametrize("width", WIDTHS)
def test_what_matters_stays_visible(name: str, width: int) -> None:
    document, sentence = REMARKS[name]
    assert sentence in " ".join(" ".join(printed(facts_of(document), width)).split())


def everything_said(facts: Facts) -> Iterator[str]:
    yield from (facts.title, facts.answer)
    for part in facts.parts:
        if isinstance(part, Fact):
            yield from (part.label, part.text)
        elif isinstance(part, Figures):
            for row in part.rows:
                yield from (row.name, row.before, row.after, row.change, row.note)


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("width", WIDTHS)
def test_three_writers_show_the_same(name: str, width: int) -> None:
    facts = spelled_by(option, facts_of(ANSWERS[name][0], KEPT))
    lines = printed(facts, width)
    assert all(len(line) <= width for line in lines)
    if width >= 80:
        assert len(lines) <= 20
    places = {
        "terminal": " ".join(lines),
        "Markdown": markdown_of(facts).replace("\\", ""),
        "HTML": html.unescape(re.sub(r"<[^>]*>", " ", html_of(facts))),
    }
    for said in everything_said(facts):
        for place, text in places.items():
            shown = Path(said).name if place == "HTML" and said == facts.title else said
            assert " ".join(shown.split()) in " ".join(text.split()), (place, said)
