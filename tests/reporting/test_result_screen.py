"""One screen: the answer leads, figures and remarks follow in one order, and every writer shows the same ones."""

from __future__ import annotations

from typing import Any

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.display.facts import Facts, Figure, Figures
from onnxheadprune.runtime.feeds.data import RANDOM_INPUTS
from onnxheadprune.validation.headline import headline_of
from onnxheadprune.validation.summary import result_of
from tests.reporting.made_documents import cut_document

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


TRIED = {"sentence": "the graph is not the planned one; equal on 46 inputs", "inputs": 46, "sizes": {}}


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
