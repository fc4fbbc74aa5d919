"""The report of `bench`: on a terminal, as a table in Markdown, and as CSV with a line per model and size."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from onnxheadprune.benchmarking.entry import fused
from onnxheadprune.benchmarking.result import MIXED, Benchmark, Cell, Comparison, ModelFacts
from onnxheadprune.model.spelling import count, in_markdown, many, share, short_names, size
from onnxheadprune.model.storage.folder import write_text
from onnxheadprune.reporting.console import bullet, markdown_table, row, table
from onnxheadprune.reporting.validation import provider_rows
from onnxheadprune.runtime import CPU, SUFFIX

_STYLES = {"faster": "bold green", "slower": "bold red"}
_MEMORY_HINT = "peak memory"
WIDE = 116
"""Columns of a terminal that the whole table needs."""


def benchmark_report(result: Benchmark) -> Iterator[RenderableType]:
    """The verdicts, the models, the latencies, then what qualifies them."""
    yield from provider_rows(result.provider)
    for index in range(1, len(result.models)):
        yield from _judgement(result, index)
    yield ""
    yield _models(result)
    yield ""
    yield _Latencies(result)
    yield ""
    yield from _fused_rows(result)
    yield from _memory_rows(result)
    yield row("ran on", _where(result))
    yield row("method", _method(result))
    for note in result.notes:
        yield row("note", note, "yellow")


def _models(result: Benchmark) -> RenderableType:
    numeric = ("#", "file", "params", "GFLOPs", "attention", _MEMORY_HINT)
    made = table("#", "model", *numeric[1:], "nodes", numeric=numeric, wraps=("nodes",))
    for index, facts in enumerate(result.models):
        flops = result.cells_of(index)[-1].flops
        attention = flops.attention_share
        made.add_row(
            str(index),
            facts.name,
            size(facts.file_bytes),
            count(facts.params),
            f"{flops.total / 1e9:.3g}" + ("+" if flops.uncounted else ""),
            "" if attention is None else share(attention),
            _memory(facts),
            _placement(facts),
        )
    return made


def _memory(facts: ModelFacts) -> str:
    if facts.footprint is None or facts.footprint.peak_bytes is None:
        return "not measured"
    return size(facts.footprint.peak_bytes)


def _placement(facts: ModelFacts) -> str:
    if not facts.placement:
        return "not told"
    names = (f"{number} {name.removesuffix(SUFFIX)}" for name, number in facts.placement.items())
    return ", ".join(names)


@dataclass(frozen=True)
class _Latencies:
    """The table of latencies; where the terminal is narrow, without the tail and the throughput."""

    result: Benchmark

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Choose the columns that fit the width of the console."""
        wide = options.max_width >= WIDE
        tail = ("p90", "p99", "per second") if wide else ()
        bound = ("bound", "reached") if wide else ("reached",)
        numeric = ("#", "p50 ms", *tail, "speed-up", *bound)
        made = table("sizes", "#", "p50 ms", *tail, "speed-up", "interval", *bound, "", numeric=numeric)
        for point, noise in zip(self.result.points, self.result.noise, strict=True):
            for cell in self.result.cells:
                if cell.point != point:
                    continue
                if cell.comparison is None:
                    # The first model is compared with itself, in the last column.
                    twin = Text(f"A/A {1 / noise.value:.3f}", "dim")
                    compared: list[str | Text] = ["", "", *("" for _ in bound), twin]
                else:
                    compared = _compared(cell.comparison, wide)
                label = point.label if cell.model == 0 else ""
                made.add_row(label, *_numbers(cell, wide), *compared)
        yield made


def _numbers(cell: Cell, wide: bool) -> list[str]:
    latency = cell.latency
    p50, p90, p99 = (f"{1000 * value:.3g}" for value in (latency.p50, latency.p90, latency.p99))
    if wide:
        return [str(cell.model), p50, p90, p99, f"{latency.throughput:,.4g}"]
    return [str(cell.model), p50]


def _compared(comparison: Comparison, wide: bool) -> list[str | Text]:
    ratio, bound, reached = comparison.ratio, comparison.bound, comparison.reached
    bounds: list[str | Text] = ["" if bound is None else f"{bound:.3f}"] if wide else []
    return [
        f"{comparison.speedup:.3f}",
        f"{1 / ratio.high:.3f} .. {1 / ratio.low:.3f}",
        *bounds,
        "" if reached is None else share(reached),
        Text(comparison.verdict, _STYLES.get(comparison.verdict, "")),
    ]


def _judgement(result: Benchmark, index: int) -> Iterator[RenderableType]:
    facts, verdict = result.models[index], result.verdict(index)
    cells = [cell.comparison for cell in result.cells_of(index) if cell.comparison is not None]
    low, high = min(item.speedup for item in cells), max(item.speedup for item in cells)
    spread = f"{low:.2f}x" if len(cells) == 1 else f"{low:.2f}x to {high:.2f}x"
    text = f"{facts.name}: {_spell(verdict, cells)} ({spread})"
    saved = [item.saved for item in cells if item.saved is not None]
    if saved and len(saved) == len(cells):
        text += f"; saves {_part(min(saved))} of the time that its operations allow"
        text += "" if len(saved) == 1 else f" at least, {_part(max(saved))} at best"
    yield row("verdict", text, _STYLES.get(verdict, "bold"))
    for reason in facts.differences:
        yield bullet(f"not comparable: {reason}", "yellow")


def _part(saved: float) -> str:
    """A part of what can be saved; more than all of it was saved elsewhere, as by another kernel."""
    return share(saved) if saved <= 1 else "more than all"


def _spell(verdict: str, cells: Sequence[Comparison]) -> str:
    if verdict != MIXED:
        return verdict
    counts = Counter(item.verdict for item in cells)
    return ", ".join(f"{name} at {number}" for name, number in counts.items()) + f" of {len(cells)} sizes"


def _fused_rows(result: Benchmark) -> Iterator[RenderableType]:
    """Fused operators of the optimized graphs, once if all have the same."""
    listed = [
        ", ".join(f"{number} {name}" for name, number in fused(facts.operators).items())
        for facts in result.models
    ]
    everywhere = len(listed) > 1 and len(set(listed)) == 1
    for index, text in enumerate(listed):
        if index > 0 and text == listed[0]:
            continue
        told = text
        if not told:
            told = "none" if result.models[index].operators else "not told by this provider"
        told = f"{told} in every model" if everywhere else f"#{index}: {told}"
        yield row("fused" if index == 0 else "", told)
    kernels = {
        index: facts.footprint.kernels
        for index, facts in enumerate(result.models)
        if facts.footprint is not None and facts.footprint.kernels
    }
    for index, names in kernels.items():
        yield row("kernels", f"#{index}: {', '.join(names)}")


def _memory_rows(result: Benchmark) -> Iterator[RenderableType]:
    told = {facts.footprint.how for facts in result.models if facts.footprint is not None}
    for how in sorted(told):
        yield row("memory", f"{how}, at the largest size")


def _where(result: Benchmark) -> str:
    machine = result.machine
    cards = ", ".join(card["name"] for card in machine["cards"])
    where = f"{result.provider.label}, onnxruntime {result.versions['onnxruntime']}"
    stray = [facts for facts in result.models if len(facts.placement) > 1 and facts.placement.get(CPU)]
    if stray:
        counts = ", ".join(f"{facts.placement[CPU]} of {facts.name}" for facts in stray)
        where += f"; nodes on the CPU: {counts}"
    return f"{where}; {machine['processor']}, {many(machine['cores'], 'core')}{f'; {cards}' if cards else ''}"


def _method(result: Benchmark) -> str:
    used = result.settings
    runs = min(cell.latency.runs for cell in result.cells)
    floors = [cell.comparison.floor for cell in result.cells if cell.comparison is not None]
    floor = f", noise floor {share(max(floors))}" if floors else ""
    graphs = ", CUDA graphs" if used["cuda_graph"] else ""
    return (
        f"{used['rounds']} rounds of fresh sessions, models in turn in random blocks, at least {runs} runs each,"
        f" {used['confidence']:.0%} bootstrap intervals{floor}{graphs}"
    )


def write_files(result: Benchmark, csv_path: Path | None, markdown: Path | None) -> None:
    """Write the files that are asked for.

    Raises:
        UsageError: if one cannot be written.
    """
    if csv_path is not None:
        _write_csv(result, csv_path)
    if markdown is not None:
        _write_markdown(result, markdown)


def _write_markdown(result: Benchmark, path: Path) -> None:
    """Write the latencies as Markdown, with where they were measured and what qualifies them below."""
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
    "noise_floor",
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
            "noise_floor": compared.floor,
            "speedup": compared.speedup,
            "speedup_bound": compared.bound,
            "verdict": compared.verdict,
        }
    return line
