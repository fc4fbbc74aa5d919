"""The report of `combine`: a line per model, on the terminal, as Markdown and on a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from onnxheadprune.model.spelling import accuracy
from onnxheadprune.model.storage.folder import write_text
from onnxheadprune.reporting.escaping import escaped
from onnxheadprune.reporting.layout import bullet, heading, row, size, table
from onnxheadprune.reporting.quantization import settings_of
from onnxheadprune.workflow.combine import Combination


@dataclass(frozen=True)
class Comparison:
    """The comparison of the models, as text.

    Attributes:
        columns: of the table.
        rows: a model each.
        recommended: the better order, and why.
        remarks: what else to know.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    recommended: str
    remarks: tuple[str, ...]


def comparison_of(document: Mapping[str, Any]) -> Comparison:
    """The table of a result.

    Args:
        document: what `combine` prints with --json.
    """
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
    yield row("quantized", settings_of(result.how))
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
    """Writes the table as Markdown.

    Args:
        result: the comparison.
        path: where to.

    Raises:
        UsageError: if the file cannot be written.
    """
    found = comparison_of(result.to_dict())
    marks = [":---", *("---:" for _ in found.columns[1:])]
    lines = [_line(found.columns), _line(tuple(marks)), *map(_line, found.rows)]
    found_on = f"Drift, accuracy and metric: {result.corners[0].distance.measured_on}."
    rest = [f"Recommended: {_plain(found.recommended)}.", *(f"* {_plain(item)}" for item in found.remarks)]
    write_text(path, "\n".join([*lines, "", _plain(found_on), "", *rest, ""]))


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(_plain(cell) for cell in cells)} |"


def _plain(text: str) -> str:
    """Escape what would end a cell or begin markup."""
    return escaped(text).replace("|", "\\|").replace("<", "&lt;")
