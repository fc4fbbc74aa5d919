"""Latency with intervals: a chart of intervals and a table, from the result of `bench`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxheadprune.benchmarking.result import GridPoint
from onnxheadprune.model.spelling import short_names
from onnxheadprune.reporting.layout import size
from onnxheadprune.reporting.page.charts import Tick, scale_of_times
from onnxheadprune.reporting.page.documents import Document

LEFT, RIGHT, ROW, TOP = 16.0, 704.0, 22.0, 30.0
"""Pixels of the chart: where values begin and end, height of a row, and of what is above the first one."""


@dataclass(frozen=True)
class Interval:
    """One model at one size.

    Attributes:
        low: pixel of the interval's left end.
        mid: pixel of the median.
        high: pixel of the right end.
        words: the same as text ("1.52 ms, 95 % interval 1.50 to 1.55").
    """

    model: int
    y: float
    low: float
    mid: float
    high: float
    words: str


@dataclass(frozen=True)
class Size:
    """The intervals of all models at one size of the inputs."""

    label: str
    y: float
    intervals: tuple[Interval, ...]


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    size: str
    model: str
    median: str
    interval: str
    speedup: str
    speedup_interval: str
    verdict: str


@dataclass(frozen=True)
class Latency:
    """The chart, the table, and how it was measured.

    Attributes:
        sizes: groups of the chart.
        ticks: of its axis, in milliseconds.
        logarithmic: whether equal factors are equally far apart on it.
        height: of the chart in pixels.
        verdicts: a sentence per compared model.
        memory: peak memory per model, where it was measured.
    """

    names: tuple[str, ...]
    sizes: tuple[Size, ...]
    ticks: tuple[Tick, ...]
    logarithmic: bool
    height: float
    rows: tuple[Row, ...]
    verdicts: tuple[str, ...]
    method: str
    where: str
    notes: tuple[str, ...]
    memory: tuple[str, ...]


def latency_of(document: Document) -> Latency:
    """Return what `bench` has measured."""
    names = short_names([facts["name"] for facts in document["models"]])
    points: list[Any] = []
    for cell in document["cells"]:
        if cell["point"] not in points:
            points.append(cell["point"])
    ends = [1000 * cell["latency_seconds"][end] for cell in document["cells"] for end in ("low", "high")]
    scale = scale_of_times(ends, LEFT, RIGHT)
    sizes, rows, y = [], [], TOP
    for point in points:
        cells = [cell for cell in document["cells"] if cell["point"] == point]
        title, y = y, y + ROW
        intervals = []
        for cell in cells:
            low, mid, high = (1000 * cell["latency_seconds"][name] for name in ("low", "p50", "high"))
            words = f"{names[cell['model']]}: {mid:.3g} ms, 95 % interval {low:.3g} to {high:.3g} ms"
            intervals.append(Interval(cell["model"], y, scale.at(low), scale.at(mid), scale.at(high), words))
            rows.append(_row(GridPoint(**point).label, names, cell))
            y += ROW
        sizes.append(Size(GridPoint(**point).label, title, tuple(intervals)))
        y += ROW / 2
    verdicts = tuple(_verdict(document, names, index) for index in range(1, len(names)))
    return Latency(
        names,
        tuple(sizes),
        tuple(scale.ticks()),
        scale.logarithmic,
        y + ROW,
        tuple(rows),
        verdicts,
        latency_method(document),
        _where(document),
        tuple(document["notes"]),
        tuple(_memory(names, document)),
    )


def _row(label: str, names: tuple[str, ...], cell: Document) -> Row:
    found, comparison = cell["latency_seconds"], cell["comparison"]
    speedup = interval = verdict = ""
    if comparison:
        ratio = comparison["ratio"]
        speedup = f"{comparison['speedup']:.2f}x"
        interval = f"{1 / ratio['high']:.2f} to {1 / ratio['low']:.2f}"
        verdict = comparison["verdict"]
    return Row(
        label,
        names[cell["model"]],
        f"{1000 * found['p50']:.3g}",
        f"{1000 * found['low']:.3g} to {1000 * found['high']:.3g}",
        speedup,
        interval,
        verdict,
    )


def _verdict(document: Document, names: tuple[str, ...], index: int) -> str:
    cells = [
        cell["comparison"] for cell in document["cells"] if cell["model"] == index and cell["comparison"]
    ]
    factors = [item["speedup"] for item in cells]
    spread = ""
    if factors:
        low, high = min(factors), max(factors)
        spread = f" ({low:.2f}x)" if len(factors) == 1 else f" ({low:.2f}x to {high:.2f}x)"
    return f"{names[index]}: {document['verdicts'].get(str(index), 'not compared')}{spread}"


def _memory(names: tuple[str, ...], document: Document) -> list[str]:
    found = []
    for name, facts in zip(names, document["models"], strict=True):
        peak = (facts.get("memory") or {}).get("peak_bytes")
        if peak is not None:
            found.append(f"{name}: {size(peak)}")
    return found


def latency_method(document: Document) -> str:
    """Return how latencies were measured, in a sentence."""
    used = document["settings"]
    runs = min(cell["latency_seconds"]["runs"] for cell in document["cells"])
    return (
        f"{used['rounds']} rounds of fresh sessions, models in turn in random blocks, at least {runs} runs each;"
        f" {used['confidence']:.0%} bootstrap intervals of the median; a twin of the original gives the noise floor"
    )


def _where(document: Document) -> str:
    machine, provider = document["machine"], document["provider"]
    cards = ", ".join(card["name"] for card in machine["cards"])
    cores = f"{machine['processor']}, {machine['cores']} cores"
    runtime = f"onnxruntime {document['versions']['onnxruntime']}"
    return ", ".join(item for item in (provider["name"], runtime, cores, cards) if item)
