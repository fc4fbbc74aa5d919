"""The files of `bench`: latencies as a table in Markdown, and as CSV with a line per model and size."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from onnxheadprune.benchmarking.result import Benchmark, Cell
from onnxheadprune.display.markdown import markdown_of
from onnxheadprune.model.storage.writing import write_markdown, write_text


def write_files(result: Benchmark, csv_path: Path | None, markdown: Path | None) -> None:
    """Write the files that are asked for."""
    if csv_path is not None:
        _write_csv(result, csv_path)
    if markdown is not None:
        write_markdown(markdown, markdown_of(result.facts()))


def _write_csv(result: Benchmark, path: Path) -> None:
    """Write the table; empty fields where the first model is compared with nothing."""
    content, lines = io.StringIO(newline=""), [_line(result, cell) for cell in result.cells]
    writer = csv.DictWriter(content, lines[0])
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, content.getvalue())


def _line(result: Benchmark, cell: Cell) -> dict[str, object]:
    facts, latency, compared = result.models[cell.model], cell.latency, cell.comparison
    return {
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
        "ratio": compared and compared.ratio.value,
        "ratio_low": compared and compared.ratio.low,
        "ratio_high": compared and compared.ratio.high,
        "speedup": compared and compared.speedup,
        "speedup_bound": compared and compared.bound,
        "verdict": compared and compared.verdict,
        "comparable": facts.comparable,
    }
