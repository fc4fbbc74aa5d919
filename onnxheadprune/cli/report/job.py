"""The report of `run`: steps and limits on a terminal, and the files that tell of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from onnxheadprune.cli.report.gates import gate_rows
from onnxheadprune.cli.report.job_summary import summary
from onnxheadprune.cli.report.layout import heading, row, table
from onnxheadprune.cli.report.page import Documents, page_of
from onnxheadprune.model.documents import finite
from onnxheadprune.model.storage.folder import write_text
from onnxheadprune.workflow.jobs.result import JobResult
from onnxheadprune.workflow.jobs.run import PAGE, SUMMARY, VERDICT

_STYLES = {"done": "green", "unchanged": "dim", "failed": "red", "not reached": "yellow"}


def job_report(result: JobResult) -> Iterator[RenderableType]:
    """Steps, limits and what came out."""
    yield heading(f"{result.name}: {result.job} into {result.folder}")
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
        yield row("report", str(Path(result.folder) / PAGE))
    verdict = "accepted" if result.accepted else "not accepted"
    yield row("verdict", verdict, "green" if result.accepted else "red")


def save_results(result: JobResult, record: Mapping[str, object]) -> None:
    """Writes the verdict, its summary in Markdown, and the page, into the job's folder.

    Args:
        result: what became of the job.
        record: how the run can be repeated.

    Raises:
        UsageError: if a file cannot be written.
    """
    folder = Path(result.folder)
    documents = Documents()
    for name in ("recover", "prune"):
        # What was trained is what is left of the cut; one page tells of one.
        if name in result.results:
            documents.add(result.results[name], name)
            break
    for name in ("validate", "bench"):
        if name in result.results:
            documents.add(result.results[name], name)
    documents.limits.extend(gate.to_dict() for gate in result.gates)
    if documents.cuts:
        write_text(folder / PAGE, page_of(documents))
    write_text(folder / SUMMARY, summary(result))
    told = finite({**result.to_dict(), "run": dict(record)})
    write_text(folder / VERDICT, json.dumps(told, indent=1, allow_nan=False) + "\n")
