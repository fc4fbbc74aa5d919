"""Steps and limits of a job as JUnit XML, which pipelines show as tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from onnxheadprune.deploying.jobs.result import JobResult
from onnxheadprune.model.storage.folder import write_file
from onnxheadprune.reporting.escaping import escaped


def save_junit(result: JobResult, path: Path) -> None:
    """Writes a job: a case for each step and each limit, and its headline as properties.

    A step that failed is an error, a limit that was broken a failure; what was not reached was skipped.

    Args:
        result: what became of the job.
        path: where the file goes.

    Raises:
        UsageError: if it cannot be written.
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
