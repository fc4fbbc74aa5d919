"""A job in Markdown, for the page of a pipeline's run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onnxheadprune.cli.report.escaping import escaped
from onnxheadprune.cli.report.gates import gate_sentence
from onnxheadprune.cli.report.layout import change, count, size
from onnxheadprune.workflow.jobs.result import JobResult

_MARKS = {True: "✅ kept", False: "❌ broken"}


def summary(result: JobResult) -> str:
    """The verdict, the steps, the limits, and what the model was and is."""
    verdict = "accepted ✅" if result.accepted else "not accepted ❌"
    lines = [f"## {_cell(result.name)}: {verdict}", ""]
    if result.error is not None:
        lines += [f"> {_cell(str(result.error))}", ""]
    numbers = list(_numbers(result))
    if numbers:
        lines += ["| | before | after | |", "|---|---:|---:|---:|", *numbers, ""]
    if result.gates:
        lines += ["| limit | |", "|---|---|"]
        lines += [f"| {_cell(gate_sentence(gate))} | {_MARKS[gate.passed]} |" for gate in result.gates]
        lines.append("")
    lines += ["| step | status | seconds |", "|---|---|---:|"]
    lines += [f"| {step.name} | {step.status} | {step.seconds:.1f} |" for step in result.steps]
    if result.model is not None:
        lines += ["", f"Model: `{_cell(Path(result.model).name)}`"]
    return "\n".join([*lines, ""])


def _numbers(result: JobResult) -> Iterator[str]:
    """Rows of what the model was and is."""
    cut = result.results.get("recover") or result.results.get("prune")
    if cut is None:
        return
    sites = cut["plan"]["cuts"]
    before = sum(site["num_heads"] - len(site["removed_before"]) for site in sites)
    gone = sum(len(site["removed"]) for site in sites)
    yield _row(
        "heads of the sites that lost some",
        count(before),
        count(before - gone),
        change(before, before - gone),
    )
    files, operations = cut["file_bytes"], cut["operations"]
    if files is not None:
        yield _row(
            "files", size(files["before"]), size(files["after"]), change(files["before"], files["after"])
        )
    if operations is not None:
        was, now = operations["before"], operations["after"]
        yield _row("operations", count(was), count(now), change(was, now))
    validation = result.results.get("validate", {})
    for kind in ("accuracy", "metric"):
        measured = validation.get(kind)
        if measured is not None:
            was, now = measured["original"], measured["pruned"]
            yield _row(measured.get("name", kind), f"{was:.4g}", f"{now:.4g}", f"{now - was:+.4g}")
    drift = validation.get("drift")
    if drift is not None and drift["value"] is not None:
        yield _row(f"drift ({drift['measure']})", "0", f"{drift['value']:.3g}", "")
    speedup = result.results.get("bench", {}).get("speedups", {}).get("1")
    if speedup is not None:
        yield _row("times as fast, at least", "1", f"{speedup:.2f}", "")


def _row(*cells: str) -> str:
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(text: str) -> str:
    """Text that ends no cell and opens no markup."""
    return "".join(f"\\{c}" if c in "\\|`*_<>[]" else c for c in escaped(" ".join(text.split())))
