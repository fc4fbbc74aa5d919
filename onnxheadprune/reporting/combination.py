"""The reports of `quantize` and `combine`; the latter also as Markdown and on a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from onnxheadprune.model.markdown import markdown_table
from onnxheadprune.model.spelling import accuracy, change, in_markdown, many, size
from onnxheadprune.model.storage.folder import write_text
from onnxheadprune.reporting.console import bullet, heading, row, table
from onnxheadprune.settings.measuring import Rounding
from onnxheadprune.workflow.combine import Combination
from onnxheadprune.workflow.quantize import QuantizeResult


def quantize_report(result: QuantizeResult) -> Iterator[RenderableType]:
    """Yield what became of the weights, and what it costs."""
    stored, done = result.matrices
    before, after = result.before.bytes, result.after.bytes
    yield heading(f"{result.name}: {done} of {many(stored, 'stored float tensor')} to {result.how.to}")
    yield ""
    yield row("settings", _settings_of(result.how))
    yield row("weights", f"{size(before)} -> {size(after)} ({change(before, after)})")
    if result.drift is not None:
        yield row(
            "drift", f"{result.drift:.3g} ({result.unit}) on {result.measured_on}, as a deployment runs both"
        )
    for note in result.notes:
        yield row("note", note, "yellow")
    if result.output is not None:
        yield row("written", result.output)


def _settings_of(how: Rounding) -> str:
    if how.to == "int4":
        return f"blocks of {how.block_size} inputs, symmetric"
    scales = "a scale per output" if how.per_channel else "a scale per tensor"
    return f"{scales}, {'seven' if how.reduce_range else 'eight'} bits"


@dataclass(frozen=True)
class Comparison:
    """The comparison of the models, as text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    recommended: str
    remarks: tuple[str, ...]


def comparison_of(document: Mapping[str, Any]) -> Comparison:
    """The table of a result."""
    corners = document["corners"]
    columns = ["model", "file", "speed-up", f"drift ({corners[0]['drift_unit']})"]
    extra = [name for name in ("accuracy", "metric") if any(item[name] for item in corners)]
    rows = []
    for item in corners:
        cells = [item["name"], size(item["file_bytes"]), f"{item['speedup']:.2f}x", f"{item['drift']:.3g}"]
        for name in extra:
            found = item[name]
            spell = accuracy if name == "accuracy" else "{:.4g}".format
            cells.append(spell(found["pruned"]) if found else "")
        rows.append(tuple(cells))
    remarks = [f"{name} cannot be had: {reason}" for name, reason in document["refused"].items()]
    return Comparison(
        (*columns, *extra),
        tuple(rows),
        f"{document['recommended']}: {document['reason']}",
        (*remarks, *document["notes"]),
    )


def combine_report(result: Combination) -> Iterator[RenderableType]:
    """The table, the better order and why, and what qualifies the figures."""
    found = comparison_of(result.to_dict())
    yield heading(f"{result.original}: pruned, quantized to {result.how.to}, and both")
    yield ""
    made = table(*found.columns, numeric=found.columns[1:])
    for cells in found.rows:
        made.add_row(*cells)
    yield made
    yield ""
    yield row("recommended", found.recommended, "bold")
    yield row("quantized", _settings_of(result.how))
    measured_on = result.corners[0].distance.measured_on
    sizes = "; ".join(point.label for point in result.benchmark.points)
    yield row(
        "measured",
        f"speed at {sizes}, side by side; drift, accuracy and metric on {measured_on}, as a deployment runs both",
    )
    for remark in found.remarks:
        yield bullet(remark, "yellow")
    if result.output is not None:
        yield row("written", result.output)


def write_combination(result: Combination, path: Path) -> None:
    """Write the table as Markdown.

    Raises:
        UsageError: if the file cannot be written.
    """
    found = comparison_of(result.to_dict())
    measured_on = f"Drift, accuracy and metric: {result.corners[0].distance.measured_on}."
    sentences = (measured_on, f"Recommended: {found.recommended}.")
    lines = [line for sentence in sentences for line in ("", in_markdown(sentence))]
    remarks = [f"* {in_markdown(item)}" for item in found.remarks]
    comparison = markdown_table(found.columns, found.rows, found.columns[1:])
    write_text(path, "\n".join([*comparison, *lines, *remarks, ""]))
