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


_COLUMNS = (
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
    "speedup",
    "speedup_bound",
    "verdict",
    "comparable",
)


def _write_csv(result: Benchmark, path: Path) -> None:
    """Write the table; empty fields where the first model is compared with nothing."""
    content = io.StringIO(newline="")
    writer = csv.DictWriter(content, _COLUMNS)
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
            "speedup": compared.speedup,
            "speedup_bound": compared.bound,
            "verdict": compared.verdict,
        }
    return line
