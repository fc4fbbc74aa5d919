"""The report of `run`: steps and limits on a terminal, and the files that tell of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath

from rich.console import RenderableType
from rich.text import Text

from onnxheadprune.cli.report.gates import gate_rows
from onnxheadprune.cli.report.headline import headline_rows
from onnxheadprune.cli.report.job_summary import summary
from onnxheadprune.cli.report.layout import heading, row, table
from onnxheadprune.cli.report.page import Documents, Shipped, page_of
from onnxheadprune.model.documents import finite
from onnxheadprune.model.storage.folder import write_text
from onnxheadprune.workflow.jobs.result import JobResult
from onnxheadprune.workflow.jobs.run import PAGE, SUMMARY, VERDICT

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
    """What came out of a job."""
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
