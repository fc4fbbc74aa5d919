"""`bench --export-markdown`: the latencies as a table to paste into an issue or a README."""

from __future__ import annotations

from pathlib import Path

from onnxheadprune.benchmarking.result import Benchmark, Cell
from onnxheadprune.model.spelling import short_names
from onnxheadprune.model.storage.folder import write_text
from onnxheadprune.reporting.escaping import escaped
from onnxheadprune.reporting.layout import size

_COLUMNS = ("sizes", "model", "file", "median [ms]", "95 % interval [ms]", "speed-up", "verdict")
_RIGHT = {"file", "median [ms]", "95 % interval [ms]", "speed-up"}


def write_markdown(result: Benchmark, path: Path) -> None:
    """Writes the table, with where it was measured and what qualifies it below.

    Args:
        result: the benchmark.
        path: where to.

    Raises:
        UsageError: if the file cannot be written.
    """
    names = short_names([facts.name for facts in result.models])
    lines = [_row(_COLUMNS), _row(["---:" if column in _RIGHT else ":---" for column in _COLUMNS])]
    lines += [_row(_cells(result, cell, names[cell.model])) for cell in result.cells]
    runtime = f"onnxruntime {result.versions['onnxruntime']}"
    where = (
        f"{result.provider.label}, {runtime}, {result.machine['processor']}, {result.machine['cores']} cores"
    )
    notes = [f"* {_plain(note)}" for note in result.notes]
    write_text(path, "\n".join([*lines, "", _plain(where), "", *notes, *([""] if notes else [])]))


def _cells(result: Benchmark, cell: Cell, name: str) -> list[str]:
    latency, comparison = cell.latency, cell.comparison
    return [
        cell.point.label,
        f"`{name}`",
        size(result.models[cell.model].file_bytes),
        f"{1000 * latency.p50:.3g}",
        f"{1000 * latency.low:.3g} .. {1000 * latency.high:.3g}",
        "" if comparison is None else f"{comparison.speedup:.2f}",
        "" if comparison is None else comparison.verdict,
    ]


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(_plain(cell) for cell in cells)} |"


def _plain(text: str) -> str:
    """Escape what would end a cell or begin markup."""
    return escaped(text).replace("|", "\\|").replace("<", "&lt;")
