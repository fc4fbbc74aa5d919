"""The report of `run`: steps and limits on a terminal, and in Markdown for the page of a pipeline's run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite
from rich.console import RenderableType

from onnxheadprune.deploying.jobs.run import PAGE, SUMMARY, VERDICT
from onnxheadprune.deploying.jobs.state import JobResult
from onnxheadprune.model.documents import finite
from onnxheadprune.model.markdown import markdown_of
from onnxheadprune.model.spelling import escaped
from onnxheadprune.model.storage.writing import write_file, write_json, write_markdown, write_text
from onnxheadprune.reporting.console import rows_of
from onnxheadprune.reporting.page import Documents, Shipped, page_of


def job_report(result: JobResult) -> Iterator[RenderableType]:
    """The result of a job, its limits and its steps."""
    yield from rows_of(result.facts())


def _shipped(result: JobResult) -> Shipped | None:
    if result.model is None or result.file_bytes is None:
        return None
    name = PurePath(result.folder).name
    return Shipped(f"{name}/{PurePath(result.model).name}", *result.file_bytes, "quantize" in result.results)


def _with_choice(cut: Mapping[str, Any], prune: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A cut that was trained, with the choice of the step that removed: one page tells of one cut."""
    if prune is None or prune is cut:
        return cut
    if "files" in cut:
        chosen = {item["file"]: item for item in prune["files"]}
        return {**cut, "files": [_with_choice(item, chosen.get(item["file"])) for item in cut["files"]]}
    choice, earlier = cut.get("choice"), prune.get("choice")
    if not choice or not earlier:
        return cut
    return {**cut, "choice": {**choice, "selection": earlier["selection"]}}


def save_results(result: JobResult, record: Mapping[str, object]) -> None:
    """Write the verdict, its summary in Markdown, and the page, into the job's folder."""
    folder = Path(result.folder)
    documents = Documents(result.facts(), _shipped(result))
    if result.cut is not None:
        documents.add(_with_choice(result.cut, result.results.get("prune")), "the cut")
    for name in ("validate", "bench"):
        if name in result.results:
            documents.add(result.results[name], name)
    documents.limits[:] = [gate.to_dict() for gate in result.limits]
    if documents.cuts:
        write_text(folder / PAGE, page_of(documents))
    write_markdown(folder / SUMMARY, markdown_of(result.facts()))
    told = finite({**result.to_dict(), "run": dict(record)})
    write_json(folder / VERDICT, told)


def save_junit(result: JobResult, path: Path) -> None:
    """Write a job: a case for each step and each limit, and its headline as properties.

    A step that failed is an error, a limit that was broken a failure; what was not reached was skipped.
    """
    name = escaped(result.name)
    suite = TestSuite(name)
    for question, answer in result.headline.answers:
        suite.add_property(question, escaped(answer.sentence))
    for step in result.steps:
        case = TestCase(step.name, f"{name}.steps", step.seconds if step.status == "done" else 0.0)
        if step.status == "failed":
            case.result = [Error(escaped(str(result.error)), type(result.error).__name__)]
        elif step.status == "not reached":
            case.result = [Skipped("a step before it failed")]
        elif step.status == "unchanged":
            case.system_out = f"unchanged since an earlier run, which took {step.seconds:g} s"
        suite.add_testcase(case)
    for gate in result.gates:
        case = TestCase(gate.name, f"{name}.limits", 0.0)
        sentence = escaped(gate.sentence)
        if gate.passed:
            case.system_out = sentence
        else:
            case.result = [Failure(sentence, "limit")]
        suite.add_testcase(case)
    for limit in result.asked if not result.gates else ():
        case = TestCase(limit, f"{name}.limits", 0.0)
        case.result = [Skipped("a step failed, so nothing was measured against it")]
        suite.add_testcase(case)
    document: Any = JUnitXml("onnxheadprune")
    document.add_testsuite(suite)
    document.update_statistics()
    # Names are XML's own ASCII with references, which is UTF-8 too.
    write_file(path, b'<?xml version="1.0" encoding="UTF-8"?>\n' + document.tostring() + b"\n")
