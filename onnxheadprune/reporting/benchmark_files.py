"""The files of `bench`: a table to paste into an issue or a README, and one line per model and grid point as CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from onnxheadprune.benchmarking.result import Benchmark, Cell
from onnxheadprune.model.spelling import in_markdown, short_names
from onnxheadprune.model.storage.folder import write_text
from onnxheadprune.reporting.layout import markdown_table, size


def write_markdown(result: Benchmark, path: Path) -> None:
    """Writes the latencies as Markdown, with where they were measured and what qualifies them below.

    Raises:
        UsageError: if the file cannot be written.
    """
    names = short_names([facts.name for facts in result.models])
    columns = ("sizes", "model", "file", "median [ms]", "95 % interval [ms]", "speed-up", "verdict")
    rows = [_cells(result, cell, names[cell.model]) for cell in result.cells]
    machine = result.machine
    where = (
        f"{result.provider.label}, onnxruntime {result.versions['onnxruntime']}, {machine['processor']},"
        f" {machine['cores']} cores"
    )
    lines = [*markdown_table(columns, rows, (*columns[2:4], "speed-up")), "", in_markdown(where), ""]
    notes = [f"* {in_markdown(note)}" for note in result.notes]
    write_text(path, "\n".join([*lines, *notes, *([""] if notes else [])]))


def _cells(result: Benchmark, cell: Cell, name: str) -> tuple[str, ...]:
    latency, comparison = cell.latency, cell.comparison
    return (
        cell.point.label,
        name,
        size(result.models[cell.model].file_bytes),
        f"{1000 * latency.p50:.3g}",
        f"{1000 * latency.low:.3g} .. {1000 * latency.high:.3g}",
        "" if comparison is None else f"{comparison.speedup:.2f}",
        "" if comparison is None else comparison.verdict,
    )


COLUMNS = (
    "model",
    "provider",
    "batch",
    "seq",
    "past",
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "median_low_ms",
    "median_high_ms",
    "throughput_per_second",
    "runs",
    "flops",
    "attention_share",
    "peak_memory_bytes",
    "file_bytes",
    "params",
    "ratio",
    "ratio_low",
    "ratio_high",
    "noise_floor",
    "speedup",
    "speedup_bound",
    "verdict",
    "comparable",
)


def write_csv(result: Benchmark, path: Path) -> None:
    """Writes the table; empty fields where the first model is compared with nothing.

    Raises:
        UsageError: if the file cannot be written.
    """
    content = io.StringIO(newline="")
    writer = csv.DictWriter(content, COLUMNS)
    writer.writeheader()
    writer.writerows(_line(result, cell) for cell in result.cells)
    write_text(path, content.getvalue())


def _line(result: Benchmark, cell: Cell) -> dict[str, object]:
    facts, latency, compared = result.models[cell.model], cell.latency, cell.comparison
    line: dict[str, object] = {
        "model": facts.name,
        "provider": result.provider.name,
        "batch": cell.point.batch,
        "seq": cell.point.seq,
        "past": cell.point.past,
        "p50_ms": 1000 * latency.p50,
        "p90_ms": 1000 * latency.p90,
        "p99_ms": 1000 * latency.p99,
        "median_low_ms": 1000 * latency.low,
        "median_high_ms": 1000 * latency.high,
        "throughput_per_second": latency.throughput,
        "runs": latency.runs,
        "flops": cell.flops.total,
        "attention_share": cell.flops.attention_share,
        "peak_memory_bytes": None if facts.footprint is None else facts.footprint.peak_bytes,
        "file_bytes": facts.file_bytes,
        "params": facts.params,
        "comparable": facts.comparable,
    }
    if compared is not None:
        line |= {
            "ratio": compared.ratio.value,
            "ratio_low": compared.ratio.low,
            "ratio_high": compared.ratio.high,
            "noise_floor": compared.floor,
            "speedup": compared.speedup,
            "speedup_bound": compared.bound,
            "verdict": compared.verdict,
        }
    return line
