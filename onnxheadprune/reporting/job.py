"""The report of `run`: steps and limits on a terminal, and in Markdown for the page of a pipeline's run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, TypeAlias

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite
from rich.console import RenderableType
from rich.text import Text

from onnxheadprune.deploying.jobs.asked import Document
from onnxheadprune.deploying.jobs.run import PAGE, SUMMARY, VERDICT
from onnxheadprune.deploying.jobs.state import JobResult, of_each
from onnxheadprune.edit.site_cuts import block_cuts, totals
from onnxheadprune.model.documents import finite
from onnxheadprune.model.spelling import accuracy, change, count, escaped, in_markdown, size
from onnxheadprune.model.storage.folder import write_file, write_text
from onnxheadprune.reporting.console import heading, markdown_table, row, table
from onnxheadprune.reporting.page import Documents, Shipped, page_of
from onnxheadprune.reporting.validation import gate_rows, headline_rows

_SIGNS = {"good": "✅", "open": "🔵", "doubtful": "⚠️", "bad": "❌"}
_Numbers: TypeAlias = tuple[str, str, str, str]
"""A name, before, after, and the change."""
_MARKS = {True: "✅ kept", False: "❌ broken"}


def summary(result: JobResult) -> str:
    """The headline, the steps, the limits, and what the model was and is."""
    headline = result.headline
    lines = [f"## {in_markdown(result.name)}: {headline.result.answer} {_SIGNS[headline.state]}", ""]
    lines += [
        f"* **{question}** {_SIGNS[answer.state]} {in_markdown(answer.sentence)}"
        for question, answer in headline.answers
    ]
    lines.append("")
    numbers = list(_numbers(result))
    if numbers:
        lines += [*markdown_table(("", "before", "after", ""), numbers, ("before", "after")), ""]
    if result.gates:
        kept = [(gate.sentence, _MARKS[gate.passed]) for gate in result.gates]
        lines += [*markdown_table(("limit", ""), kept), ""]
    steps = [(step.name, step.status, f"{step.seconds:.1f}") for step in result.steps]
    lines += markdown_table(("step", "status", "seconds"), steps, ("seconds",))
    if result.model is not None:
        lines += ["", f"Model: `{in_markdown(Path(result.model).name)}`"]
    return "\n".join([*lines, ""])


def _numbers(result: JobResult) -> Iterator[_Numbers]:
    cut = result.cut
    if cut is None:
        return
    leading = [item for item in of_each(cut) if item.get("leads", True)]
    sites = [site for item in leading for site in item["plan"]["cuts"]]
    before = sum(site["num_heads"] - len(site["removed_before"]) for site in sites)
    gone = sum(len(site["removed"]) for site in sites)
    yield _moved("heads of the sites that lost some", before, before - gone, count)
    for units, lost, left in totals(one for item in leading for one in block_cuts(item["plan"])):
        yield _moved(units, lost + left, left, count)
    if result.file_bytes is not None and result.model is not None:
        yield _moved(f"file, {Path(result.model).name}", *result.file_bytes, size)
    operations = [item["operations"] for item in leading]
    if all(operations):
        was, now = (sum(item[when] for item in operations) for when in ("before", "after"))
        yield _moved("operations", was, now, count)
    stored = result.results.get("quantize")
    if stored is not None:
        was, now = stored["before"]["bytes"], stored["after"]["bytes"]
        yield _moved(f"weights in {stored['quantization']['to']}", was, now, size)
    for validation in of_each(result.results.get("validate", {})):
        yield from _judged(validation.get("deployed", validation), validation.get("file"))
    speedups = [item.get("guaranteed", {}).get("1") for item in of_each(result.results.get("bench", {}))]
    if speedups and all(speedup is not None for speedup in speedups):
        yield "times as fast, guaranteed at every size", "1", f"{min(speedups):.2f}", ""


def _moved(name: str, was: int, now: int, spelled: Callable[[int], str]) -> _Numbers:
    return name, spelled(was), spelled(now), change(was, now)


def _judged(validation: Document, file: str | None) -> Iterator[_Numbers]:
    """Yield the measurements of a validation; of a folder with the name of the file."""
    of = "" if file is None else f" of {file}"
    found, metric, drift = (validation.get(name) for name in ("accuracy", "metric", "drift"))
    if found is not None:
        was, now = found["original"], found["pruned"]
        points = f"{100 * (now - was):+.2f} points"
        yield f"accuracy{of}, {found['measured_on']}", accuracy(was), accuracy(now), points
    if metric is not None:
        was, now = metric["original"], metric["pruned"]
        name = f"{metric['name']}{of}, {metric['measured_on']}"
        yield name, f"{was:.4g}", f"{now:.4g}", f"{now - was:+.4g}"
    if isinstance(drift, float):
        measure, on = validation["drift_unit"], validation["measured_on"]
        yield f"drift ({measure}){of}, {on}", "0", f"{drift:.3g}", ""
    elif drift is not None and drift["value"] is not None:
        yield f"drift ({drift['measure']}){of}, {drift['measured_on']}", "0", f"{drift['value']:.3g}", ""


_STYLES = {"done": "green", "unchanged": "dim", "failed": "red", "not reached": "yellow"}


def job_report(result: JobResult) -> Iterator[RenderableType]:
    """Steps, limits and what came out."""
    yield heading(f"{result.name}: {result.job} into {result.folder}")
    yield from headline_rows(result.headline)
    yield ""
    made = table("step", "status", "seconds", numeric=("seconds",))
    for step in result.steps:
        seconds = f"{step.seconds:.1f}" if step.status in ("done", "unchanged") else ""
        made.add_row(step.name, Text(step.status, style=_STYLES[step.status]), seconds)
    yield made
    yield ""
    yield from gate_rows(result.gates)
    if result.model is not None:
        yield row("model", result.model)


def _shipped(result: JobResult) -> Shipped | None:
    if result.model is None or result.file_bytes is None:
        return None
    name = PurePath(result.folder).name
    return Shipped(f"{name}/{PurePath(result.model).name}", *result.file_bytes, "quantize" in result.results)


def save_results(result: JobResult, record: Mapping[str, object]) -> None:
    """Write the verdict, its summary in Markdown, and the page, into the job's folder.

    Raises:
        UsageError: if a file cannot be written.
    """
    folder = Path(result.folder)
    documents = Documents(result.headline, _shipped(result))
    if result.cut is not None:
        # What was trained is what is left of the cut; one page tells of one.
        documents.add(result.cut, "the cut")
    for name in ("validate", "bench"):
        if name in result.results:
            documents.add(result.results[name], name)
    documents.limits[:] = [gate.to_dict() for gate in result.limits]
    if documents.cuts:
        write_text(folder / PAGE, page_of(documents))
    write_text(folder / SUMMARY, summary(result))
    told = finite({**result.to_dict(), "run": dict(record)})
    write_text(folder / VERDICT, json.dumps(told, indent=1, allow_nan=False) + "\n")


def save_junit(result: JobResult, path: Path) -> None:
    """Write a job: a case for each step and each limit, and its headline as properties.

    A step that failed is an error, a limit that was broken a failure; what was not reached was skipped.

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
