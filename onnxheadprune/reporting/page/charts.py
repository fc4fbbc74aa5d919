"""The charts of a page: latencies with intervals from `bench`, and the curve of a `sweep`, as a template draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from onnxheadprune.benchmarking.measure import NO_DIFFERENCE
from onnxheadprune.benchmarking.summary import bench_facts, label_of
from onnxheadprune.model.documents import Document
from onnxheadprune.model.facts import Facts, Table
from onnxheadprune.model.spelling import short_names
from onnxheadprune.workflow.curve import curve_share, curve_table, speed_sizes

WIDE_SPAN = 12
"""Times that the largest value may be the smallest one on a linear axis."""


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: its place in pixels, and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high` over pixels `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value, with a decimal."""
        low, high, here = (self._of(number) for number in (self.low, self.high, value))
        return round(self.start + (here - low) / (high - low or 1.0) * (self.end - self.start), 1)

    def _of(self, value: float) -> float:
        return math.log(value) if self.logarithmic else value

    def ticks(self, most: int = 5) -> list[Tick]:
        """Round numbers along the axis, `most` or a few fewer or more."""
        if self.logarithmic:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            powers = [10.0**power for power in range(first, last + 1)]
            factors = (1, 2, 5) if last - first < most else (1,)
            numbers = [factor * power for power in powers for factor in factors]
            return [Tick(self.at(item), f"{item:g}") for item in numbers if self.low <= item <= self.high]
        step = _round_step((self.high - self.low) / max(most, 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [Tick(self.at(index * step), f"{index * step:.6g}") for index in range(first, last + 1)]


def scale_over(values: Sequence[float], start: float, end: float, *, zero: bool = True) -> Scale:
    """An axis that holds all values with a little room."""
    low, high = (0.0 if zero else min(values)), max(values)
    if high <= low:
        low, high = (low, low + 1.0) if zero else (high - (abs(high) / 10 or 1.0), high)
    room = 0.06 * (high - low)
    return Scale(low if zero else low - room, high + room, start, end)


def scale_of_times(values: Sequence[float], start: float, end: float) -> Scale:
    """An axis for positive numbers: from zero, or logarithmic where the small ones would vanish."""
    if min(values) > 0 and max(values) > WIDE_SPAN * min(values):
        return Scale(min(values) / 1.3, max(values) * 1.3, start, end, logarithmic=True)
    return scale_over(values, start, end)


def _round_step(step: float) -> float:
    """The next of 1, 2, 5, 10 times a power of ten."""
    if step <= 0 or not math.isfinite(step):
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)


Value: TypeAlias = tuple[float | None, bool]
"""The value of a quantity at a point; True if it differs measurably from the original."""
LEFT, RIGHT, TOP, BOTTOM = 64.0, 700.0, 16.0, 196.0


@dataclass(frozen=True)
class Line:
    """One quantity against the share that is removed."""

    name: str
    points: str  # "x,y x,y", as SVG wants it
    # pixels of each point, its words, and whether a difference was measured there
    dots: tuple[tuple[float, float, str, bool], ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class CurveChart:
    """Small charts one above the other, with one horizontal axis."""

    lines: tuple[Line, ...]
    ticks: tuple[Tick, ...]
    along: str
    knee: float | None  # its pixel, None without
    knee_words: str
    table: Table
    model: str

    @property
    def hollow(self) -> bool:
        """True if a point is no measurable difference from the original."""
        return any(not measured for line in self.lines for *_, measured in line.dots)


def curve_chart(document: Document) -> CurveChart:
    """Return what a sweep has measured."""
    points, counted = document["points"], document["ratio_of"]
    shares = [100 * curve_share(document, point) for point in points]
    horizontal = scale_over(shares or [0.0], LEFT, RIGHT)

    def line(name: str, value: Callable[[Mapping[str, Any]], Value], zero: bool = False) -> Line | None:
        found = [(share, *value(point)) for share, point in zip(shares, points, strict=True)]
        known = [(share, number, measured) for share, number, measured in found if number is not None]
        if len(known) < 2:
            return None
        vertical = scale_over([number for _, number, _ in known], BOTTOM, TOP, zero=zero)
        dots = tuple(
            (
                horizontal.at(share),
                vertical.at(number),
                f"{share:.0f} % of {counted}: {name} {number:.3g}",
                measured,
            )
            for share, number, measured in known
        )
        return Line(name, " ".join(f"{x:g},{y:g}" for x, y, *_ in dots), dots, tuple(vertical.ticks(4)))

    sizes = speed_sizes(document)
    lines = (
        line(f"drift ({document['drift_unit']})", lambda point: (point["drift"], True), zero=True),
        line("accuracy (%)", _percent),
        *(line(f"times as fast, {size}", partial(_speedup, size=index)) for index, size in enumerate(sizes)),
    )
    knee = document["knee"]
    at = None if knee is None else horizontal.at(shares[knee])
    words = "" if knee is None else f"knee: {_knee_words(document, points[knee], counted)}"
    return CurveChart(
        tuple(item for item in lines if item is not None),
        tuple(horizontal.ticks(8)),
        "attention heads removed" if counted == "heads" else f"{counted} of all blocks removed",
        at,
        words,
        curve_table(document),
        document["model"],
    )


def _speedup(point: Mapping[str, Any], size: int) -> Value:
    """Return how much faster a cut is at one size, and whether that is a measurable difference."""
    if not point["speed"]:
        # The original itself needs no measurement.
        return (None if point["removed"] else 1.0), True
    cell = point["speed"]["at"][size]
    return cell["speedup"], cell["verdict"] != NO_DIFFERENCE


def _percent(point: Mapping[str, Any]) -> Value:
    accuracy = point["accuracy"]
    return None if accuracy is None else 100 * accuracy, True


def _knee_words(document: Document, point: Mapping[str, Any], counted: str) -> str:
    if counted == "heads":
        return f"{point['removed']} of {document['heads']} heads"
    return f"{100 * curve_share(document, point):.0f} % of {counted}"


BEGIN, END, ROW, ABOVE = 16.0, 704.0, 22.0, 30.0
"""Pixels of the chart: where values begin and end, height of a row, and of what is above the first one."""


@dataclass(frozen=True)
class Interval:
    """One model at one size."""

    model: int
    y: float
    low: float  # pixel of the interval's left end
    mid: float  # pixel of the median
    high: float  # pixel of the right end
    words: str  # the same as text ("1.52 ms, 95 % interval 1.50 to 1.55")


@dataclass(frozen=True)
class Size:
    """The intervals of all models at one size of the inputs."""

    label: str
    y: float
    intervals: tuple[Interval, ...]


@dataclass(frozen=True)
class Latency:
    """The chart of a benchmark, and what it says."""

    names: tuple[str, ...]
    sizes: tuple[Size, ...]  # groups of the chart
    ticks: tuple[Tick, ...]  # of its axis, in milliseconds
    logarithmic: bool  # whether equal factors are equally far apart on it
    height: float  # of the chart in pixels
    facts: Facts  # the verdicts, the table, and how it was measured


def latency_of(document: Document) -> Latency:
    """Return what `bench` has measured."""
    names = short_names([facts["name"] for facts in document["models"]])
    by_size: dict[str, list[Document]] = {}
    for cell in document["cells"]:
        by_size.setdefault(label_of(cell["point"]), []).append(cell)
    ends = [1000 * cell["latency_seconds"][end] for cell in document["cells"] for end in ("low", "high")]
    scale = scale_of_times(ends, BEGIN, END)
    sizes, y = [], ABOVE
    for label, cells in by_size.items():
        title, y = y, y + ROW
        intervals = []
        for cell in cells:
            low, mid, high = (1000 * cell["latency_seconds"][name] for name in ("low", "p50", "high"))
            words = f"{names[cell['model']]}: {mid:.3g} ms, 95 % interval {low:.3g} to {high:.3g} ms"
            intervals.append(Interval(cell["model"], y, scale.at(low), scale.at(mid), scale.at(high), words))
            y += ROW
        sizes.append(Size(label, title, tuple(intervals)))
        y += ROW / 2
    ticks = tuple(scale.ticks())
    return Latency(names, tuple(sizes), ticks, scale.logarithmic, y + ROW, bench_facts(document))
