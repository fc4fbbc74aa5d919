"""The report of `run`: steps and limits on a terminal, and in Markdown for the page of a pipeline's run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from onnxheadprune.deploying.jobs.result import JobResult
from onnxheadprune.deploying.jobs.run import PAGE, SUMMARY, VERDICT
from onnxheadprune.display.markdown import markdown_of
from onnxheadprune.display.spelling import escaped
from onnxheadprune.model.documents import finite
from onnxheadprune.model.storage.writing import write_file, write_json, write_markdown
from onnxheadprune.reporting.page import Result, results_of, save_page


def save_results(result: JobResult, record: Mapping[str, object]) -> None:
    """Write the verdict, its summary in Markdown, and the page, into the job's folder."""
    folder, facts = Path(result.folder), result.facts()
    steps = (each for name, document in result.results.items() for each in results_of(document, name))
    if result.cut is not None:
        save_page(folder / PAGE, [Result(facts, record), *steps])
    write_markdown(folder / SUMMARY, markdown_of(facts))
    write_json(folder / VERDICT, finite({**result.document(), "run": dict(record)}))


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
