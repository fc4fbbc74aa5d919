"""The curve of a sweep: drift, accuracy and speed against what is gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from onnxheadprune.benchmarking.measure import NO_DIFFERENCE
from onnxheadprune.reporting.curve import curve_share, curve_table, speed_sizes
from onnxheadprune.reporting.page.charts import Tick, scale_over
from onnxheadprune.reporting.page.documents import Document

Value: TypeAlias = tuple[float | None, bool]
"""What a point has of a quantity, and whether that differs measurably from the original."""
LEFT, RIGHT, TOP, BOTTOM = 64.0, 700.0, 16.0, 196.0


@dataclass(frozen=True)
class Line:
    """One quantity against the share that is removed.

    Attributes:
        points: "x,y x,y", as SVG wants it.
        dots: pixels of each point, its words, and whether a difference was measured there.
    """

    name: str
    points: str
    dots: tuple[tuple[float, float, str, bool], ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class CurveChart:
    """Small charts one above the other, with one horizontal axis.

    Attributes:
        knee: its pixel, None without.
    """

    lines: tuple[Line, ...]
    ticks: tuple[Tick, ...]
    along: str
    knee: float | None
    knee_words: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
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
    columns, rows = curve_table(document)
    return CurveChart(
        tuple(item for item in lines if item is not None),
        tuple(horizontal.ticks(8)),
        "attention heads removed" if counted == "heads" else f"{counted} of all blocks removed",
        at,
        words,
        columns,
        tuple(rows),
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
