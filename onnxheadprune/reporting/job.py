"""The report of `run`: steps and limits on a terminal, and in Markdown for the page of a pipeline's run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath

from rich.console import RenderableType
from rich.text import Text

from onnxheadprune.deploying.jobs.asked import Document
from onnxheadprune.deploying.jobs.result import JobResult, of_each
from onnxheadprune.deploying.jobs.run import PAGE, SUMMARY, VERDICT
from onnxheadprune.edit.site_cuts import block_cuts, totals
from onnxheadprune.model.documents import finite
from onnxheadprune.model.spelling import accuracy, in_markdown
from onnxheadprune.model.storage.folder import write_text
from onnxheadprune.reporting.headline import gate_rows, headline_rows
from onnxheadprune.reporting.layout import change, count, heading, row, size, table
from onnxheadprune.reporting.page import Documents, Shipped, page_of

_SIGNS = {"good": "✅", "open": "🔵", "doubtful": "⚠️", "bad": "❌"}
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
        lines += ["| | before | after | |", "|---|---:|---:|---:|", *numbers, ""]
    if result.gates:
        lines += ["| limit | |", "|---|---|"]
        lines += [f"| {in_markdown(gate.sentence)} | {_MARKS[gate.passed]} |" for gate in result.gates]
        lines.append("")
    lines += ["| step | status | seconds |", "|---|---|---:|"]
    lines += [f"| {step.name} | {step.status} | {step.seconds:.1f} |" for step in result.steps]
    if result.model is not None:
        lines += ["", f"Model: `{in_markdown(Path(result.model).name)}`"]
    return "\n".join([*lines, ""])


def _numbers(result: JobResult) -> Iterator[str]:
    """Rows of what the model was and is."""
    cut = result.cut
    if cut is None:
        return
    cuts = of_each(cut)
    sites = [site for item in cuts if item.get("leads", True) for site in item["plan"]["cuts"]]
    before = sum(site["num_heads"] - len(site["removed_before"]) for site in sites)
    gone = sum(len(site["removed"]) for site in sites)
    yield _row(
        "heads of the sites that lost some",
        count(before),
        count(before - gone),
        change(before, before - gone),
    )
    blocks = (one for item in cuts if item.get("leads", True) for one in block_cuts(item["plan"]))
    for units, lost, left in totals(blocks):
        yield _row(units, count(lost + left), count(left), change(lost + left, left))
    if result.file_bytes is not None and result.model is not None:
        was, now = result.file_bytes
        yield _row(f"file, {Path(result.model).name}", size(was), size(now), change(was, now))
    operations = [item["operations"] for item in cuts if item.get("leads", True)]
    if all(operations):
        was, now = (sum(item[when] for item in operations) for when in ("before", "after"))
        yield _row("operations", count(was), count(now), change(was, now))
    stored = result.results.get("quantize")
    if stored is not None:
        was, now = stored["before"]["bytes"], stored["after"]["bytes"]
        yield _row(f"weights in {stored['quantization']['to']}", size(was), size(now), change(was, now))
    for validation in of_each(result.results.get("validate", {})):
        yield from _judged(validation.get("deployed", validation), validation.get("file"))
    speedups = [item.get("guaranteed", {}).get("1") for item in of_each(result.results.get("bench", {}))]
    if speedups and all(speedup is not None for speedup in speedups):
        yield _row("times as fast, guaranteed at every size", "1", f"{min(speedups):.2f}", "")


def _judged(validation: Document, file: str | None) -> Iterator[str]:
    """Rows of what a validation has measured; of a folder with the name of the file."""
    of = "" if file is None else f" of {file}"
    for kind in ("accuracy", "metric"):
        measured = validation.get(kind)
        if measured is not None:
            was, now = measured["original"], measured["pruned"]
            name = f"{measured.get('name', kind)}{of}, {measured['measured_on']}"
            yield _row(name, *_moved(kind, was, now))
    drift = validation.get("drift")
    if isinstance(drift, float):
        name = f"drift ({validation['drift_unit']}){of}, {validation['measured_on']}"
        yield _row(name, "0", f"{drift:.3g}", "")
    elif drift is not None and drift["value"] is not None:
        yield _row(
            f"drift ({drift['measure']}){of}, {drift['measured_on']}", "0", f"{drift['value']:.3g}", ""
        )


def _moved(kind: str, was: float, now: float) -> tuple[str, str, str]:
    """Before, after and the change."""
    if kind == "accuracy":
        return accuracy(was), accuracy(now), f"{100 * (now - was):+.2f} points"
    return f"{was:.4g}", f"{now:.4g}", f"{now - was:+.4g}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(in_markdown(cell) for cell in cells)} |"


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
    """Return what came out of a job."""
    if result.model is None or result.file_bytes is None:
        return None
    name = PurePath(result.folder).name
    return Shipped(f"{name}/{PurePath(result.model).name}", *result.file_bytes, "quantize" in result.results)


def save_results(result: JobResult, record: Mapping[str, object]) -> None:
    """Writes the verdict, its summary in Markdown, and the page, into the job's folder.

    Args:
        result: what became of the job.
        record: how the run can be repeated.

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
