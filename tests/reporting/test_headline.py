"""The headline: three questions, three answers, the same ones in every report of a result."""

from __future__ import annotations

import html
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from junitparser import JUnitXml

from onnxheadprune import ModelError
from onnxheadprune.benchmarking.gate import QUALITY, Gate
from onnxheadprune.deploying.jobs.result import JobResult, StepOutcome
from onnxheadprune.display.facts import Fact, Figures
from onnxheadprune.reporting.console import rows_of
from onnxheadprune.reporting.job import save_junit, save_results
from onnxheadprune.validation.figures import Quality
from onnxheadprune.validation.headline import headline_of
from tests.conftest import SAMPLES, Command
from tests.reporting.made_documents import cut_document

SEEN = "the calibration data, which the refit has seen"
VERDICTS = ("passed", "tried", "failed", "inconclusive", None)
TRIED = {
    "sentence": "the graph is not the planned one; equal on 46 inputs, lengths 1 to 129",
    "inputs": 46,
    "sizes": {},
}
ACCURACIES = (None, (0.98, 0.98), (0.98, 0.97), (0.98, 0.9), (0.98, 0.1), (0.95, 0.5))
LIMITS: tuple[tuple[Gate, ...], ...] = (
    (),
    (Gate("max_accuracy_drop", "logits", 0.02, 0.01, True),),
    (Gate("max_accuracy_drop", "logits", 0.02, 0.5, False),),
    (Gate("max_size_ratio", "small.onnx", 0.9, 0.5, True),),
    (Gate("max_size_ratio", "small.onnx", 0.9, 1.5, False),),
)


def validation(verdict: str, accuracy: tuple[float, float] | None, **further: Any) -> dict[str, Any]:
    exact = {"passed": "yes", "failed": "no", "inconclusive": "not shown"}.get(verdict, "tried")
    found: dict[str, Any] = {**cut_document()["validation"], "verdict": verdict, "exact": exact, **further}
    if verdict == "tried":
        graph = {**(found.get("structure") or {"nodes": 33, "count": 1}), "identical": False, "same": 27}
        found |= {"verdict": "passed", "structure": graph, "tried": TRIED}
    if accuracy is not None:
        values = {"original": accuracy[0], "pruned": accuracy[1]}
        found["accuracy"] = {"output": "logits", "count": 500, "measured_on": SEEN, **values}
    return found


def drift(source: str, **values: Any) -> dict[str, Any]:
    usual = {"value": 0.01, "measure": "kl", "cosine": 0.999, "top1_agreement": 0.99, "samples": 9}
    on = SEEN if source == "data" else "random inputs"
    return {"source": source, "output": "y", "max": 1, "mean": 0.1, "measured_on": on, **usual, **values}


def job(validated: dict[str, Any] | None, gates: tuple[Gate, ...], error: ModelError | None) -> JobResult:
    cut = {**cut_document(), "validation": validated}
    status = "done" if error is None else "failed"
    model = None if error is not None else "out/small.onnx"
    step = StepOutcome("prune", status)  # type: ignore[arg-type]
    sizes = None if error is not None else (17000, 13000)
    results = {} if error is not None else {"prune": cut}
    return JobResult("job", "job.yaml", "out", model, (step,), gates, {}, error, results, {}, sizes)


CASES = list(itertools.product(VERDICTS, ACCURACIES, LIMITS))


@pytest.mark.parametrize("verdict", VERDICTS)
def test_only_what_is_exact_and_good_enough_and_accepted_is_green(verdict: str | None) -> None:
    for accuracy, gates in itertools.product(ACCURACIES, LIMITS):
        check_color(verdict, accuracy, gates)


def check_color(verdict: str | None, accuracy: tuple[float, float] | None, gates: tuple[Gate, ...]) -> None:
    found = headline_of([None if verdict is None else validation(verdict, accuracy)], gates)
    kept = bool(gates) and all(gate.passed for gate in gates)
    judged = any(gate.name in QUALITY for gate in gates)
    measured = verdict is not None and accuracy is not None
    assert (found.state == "good") == (verdict == "passed" and measured and kept and judged)
    rejected = verdict == "failed" or any(not gate.passed for gate in gates)
    expected = "rejected" if rejected else "accepted" if kept else "no limits given"
    assert found.result.answer == expected and (found.result.state == "bad") is rejected
    ruined = measured and accuracy is not None and accuracy[1] < 0.75 * accuracy[0]
    assert (found.exact.answer == "yes") == (verdict == "passed")
    if verdict == "tried":
        assert found.exact.sentence == f"tried: {TRIED['sentence']}" and found.exact.state == "doubtful"
    if rejected or (ruined and not judged):
        assert found.state == "bad"
    if not measured and not judged:
        assert found.good_enough.sentence.startswith("not measured: give `data`")


@pytest.mark.parametrize(
    ("measured", "answer"),
    [
        (drift("random"), "not measured"),
        (drift("random", top1_agreement=0.1, cosine=0.1), "not measured"),
        (drift("data"), "yours to judge"),
        (drift("data", top1_agreement=0.9), "doubtful"),
        (drift("data", top1_agreement=0.6), "no"),
        (drift("data", top1_agreement=None, measure="1 - cosine", value=0.4), "no"),
        (drift("data", top1_agreement=None, value=0.1), "doubtful"),
        (drift("data", top1_agreement=None, measure="own", value=50.0), "yours to judge"),
    ],
)
def test_drift_answers_where_nothing_better_was_measured(measured: dict[str, Any], answer: str) -> None:
    found = headline_of([validation("passed", None, drift=measured)])
    assert found.good_enough.answer == answer
    (clause,) = Quality.of(validation("passed", None, drift=measured)).clauses(made=True)
    assert clause in found.good_enough.reason
    kept = headline_of([validation("passed", None, drift=measured)], [Gate("max_drift", "y", 99, 50.0, True)])
    assert kept.good_enough.answer == ("yes" if measured["source"] == "data" else "not measured")


def test_a_quantized_model_has_figures_of_its_own() -> None:
    exact = validation("passed", (0.9, 0.9))
    assert headline_of([exact], quantized=True).good_enough.answer == "not measured"
    own = {
        "drift": 0.5,
        "drift_unit": "kl",
        "measured_on": "test data",
        "samples": 9,
        "metric": None,
        "accuracy": None,
    }
    found = headline_of([exact | {"deployed": own}], quantized=True)
    assert found.good_enough.answer == "no" and "drift 0.5 KL on 9 samples" in found.good_enough.reason
    assert found.exact.reason.startswith("before it was quantized")


@pytest.mark.each_choice
@pytest.mark.parametrize(("verdict", "accuracy", "gates"), CASES)
def test_every_report_of_a_job_shows_the_same_headline(
    verdict: str | None,
    accuracy: tuple[float, float] | None,
    gates: tuple[Gate, ...],
    tmp_path: Path,
    printed: Callable[..., str],
) -> None:
    result = job(None if verdict is None else validation(verdict, accuracy), gates, None)
    require_alike(result, tmp_path, printed)


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    from onnxheadprune.reporting.console import out

    def lines(*rows: Any) -> str:
        out().print(*rows, sep="\n")
        return " ".join(capsys.readouterr().out.split())

    return lines


def require_alike(result: JobResult, folder: Path, printed: Callable[..., str]) -> None:
    found = result.headline
    result = replace(result, folder=str(folder))
    save_results(result, {})
    save_junit(result, folder / "job.xml")
    (suite,) = JUnitXml.fromfile(str(folder / "job.xml"))
    properties = {item.name: item.value for item in suite.properties()}
    summary = (folder / "summary.md").read_text(encoding="utf-8").replace("\\", "")
    document = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    terminal = printed(*rows_of(result.facts()))
    assert document["headline"] == found.to_dict()
    for question, answer in found.answers:
        assert properties[question] == answer.sentence
    facts = result.facts()
    places = [summary, terminal]
    if result.results:
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert f'<section id="result0" class="{found.state}">' in page
        places.append(html.unescape(page))
    figures = [row for part in facts.parts if isinstance(part, Figures) for row in part.rows]
    assert bool(figures) == bool(result.results)
    remarks = [part.text for part in facts.parts if isinstance(part, Fact)]
    for said in (facts.answer, *remarks, *(row.after or row.before or row.note for row in figures)):
        assert all(said in place for place in places), said


@pytest.mark.slow
def test_a_ruined_model_is_called_one(command: Command, tmp_path: Path) -> None:
    """An exact cut of all heads: proven, and good for nothing."""
    page = tmp_path / "page.html"
    model, data = SAMPLES / "digits_vit.onnx", SAMPLES / "digits_test.npz"
    words = ("--heads", "*:0-7", "--data", data, "--provider", "cpu")
    outcome = command("prune", model, *words, "-o", tmp_path / "out.onnx", "--report", page, "--json")
    headline = outcome.document["headline"]
    assert headline["state"] == "bad" and headline["exact"]["answer"] == "yes"
    assert headline["good_enough"]["answer"] == "no"
    assert '<section id="result0" class="bad">' in page.read_text(encoding="utf-8")
