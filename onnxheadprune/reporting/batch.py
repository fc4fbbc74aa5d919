"""The report of `batch`: a verdict per model as it comes, then the summary."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from onnxheadprune.deploying.batch import BatchFile, BatchResult
from onnxheadprune.model.spelling import escaped
from onnxheadprune.reporting.layout import heading, many, row, table
from onnxheadprune.reporting.validation import STYLES

_STYLES = {
    "done": "green",
    "skipped": "dim",
    "refused": "yellow",
    "failed": "red",
    "crashed": "red",
    "bug": "red",
}


def _style(item: BatchFile) -> str:
    return _STYLES[item.status] if item.headline is None else STYLES[item.headline.state]


def item_line(item: BatchFile) -> Text:
    """One line about one model."""
    line = Text(f"{item.status:8}", style=_style(item))
    return line.append(f" {escaped(item.file)} ({item.seconds:.1f} s)", style="default")


def batch_report(result: BatchResult) -> Iterator[RenderableType]:
    """A table of all models, and how many ended how."""
    yield heading(f"{result.folder}: {many(len(result.files), 'model')} into {result.output}")
    yield ""
    made = table("model", "verdict", "good enough", "reason", wraps=("good enough", "reason"))
    for item in result.files:
        enough = "" if item.headline is None else item.headline.good_enough.sentence
        made.add_row(item.file, Text(item.status, style=_style(item)), enough, item.reason)
    yield made
    yield ""
    yield row("summary", ", ".join(f"{number} {status}" for status, number in result.counts.items()))
