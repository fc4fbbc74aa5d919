"""`bench --csv`: one line per model and grid point."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from onnxheadprune.benchmarking.result import Benchmark, Cell
from onnxheadprune.model.storage.folder import write_text

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
