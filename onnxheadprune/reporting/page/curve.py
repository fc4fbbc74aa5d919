"""The curve of a sweep: drift, accuracy and speed against what is gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from onnxheadprune.benchmarking.statistics import NO_DIFFERENCE
from onnxheadprune.model.spelling import accuracy as spelled
from onnxheadprune.reporting.page.charts import Tick, polyline, scale_over
from onnxheadprune.reporting.page.documents import Document
from onnxheadprune.reporting.page.latency import point_label
from onnxheadprune.workflow.curve import gone_words

Value: TypeAlias = tuple[float | None, bool]
"""What a point has of a quantity, and whether that differs measurably from the original."""
LEFT, RIGHT, TOP, BOTTOM = 64.0, 700.0, 16.0, 196.0


@dataclass(frozen=True)
class Line:
    """One quantity against the share that is removed.

    Attributes:
        name: with its unit.
        points: "x,y x,y", as SVG wants it.
        dots: pixels of each point, its words, and whether a difference was measured there.
        ticks: of the vertical axis.
    """

    name: str
    points: str
    dots: tuple[tuple[float, float, str, bool], ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class CurveChart:
    """Small charts one above the other, with one horizontal axis.

    Attributes:
        lines: a chart each.
        ticks: of the horizontal axis, percent.
        along: what the horizontal axis is.
        knee: its pixel, None without.
        knee_words: what the knee is.
        columns: of the table.
        rows: of the table.
        model: the file.
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
    """Return what a sweep has measured.

    Args:
        document: its result.
    """
    points, counted = document["points"], document.get("ratio_of", "heads")
    shares = [100 * _share(document, point) for point in points]
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
        return Line(name, polyline([(x, y) for x, y, *_ in dots]), dots, tuple(vertical.ticks(4)))

    sizes = _sizes(document)
    lines = (
        line(f"drift ({document['drift_unit']})", lambda point: (point["drift"], True), zero=True),
        line("accuracy (%)", _percent),
        *(line(f"times as fast, {size}", partial(_speedup, size=index)) for index, size in enumerate(sizes)),
        None if sizes else line("times as fast", lambda point: (point["speedup"], True)),
    )
    knee = document.get("knee")
    at = None if knee is None else horizontal.at(shares[knee])
    words = "" if knee is None else f"knee: {_knee_words(document, points[knee], counted)}"
    rows = tuple(_row(point, document, index == knee, len(sizes)) for index, point in enumerate(points))
    return CurveChart(
        tuple(item for item in lines if item is not None),
        tuple(horizontal.ticks(8)),
        "attention heads removed" if counted == "heads" else f"{counted} of all blocks removed",
        at,
        words,
        ("asked", "removed", "drift", "accuracy", "speed", *(sizes if len(sizes) > 1 else ()), "remark"),
        rows,
        document["model"],
    )


def _sizes(document: Document) -> list[str]:
    """Return the sizes of inputs that speed was measured at; results of earlier versions have none."""
    speed = next((point["speed"] for point in document["points"] if point.get("speed")), None)
    return [] if speed is None else [point_label(cell["point"]) for cell in speed["at"]]


def _speedup(point: Mapping[str, Any], size: int) -> Value:
    """Return how much faster a cut is at one size, and whether that is a measurable difference."""
    if not point.get("speed"):
        # The original itself needs no measurement.
        return (None if point["removed"] else 1.0), True
    cell = point["speed"]["at"][size]
    return cell["speedup"], cell["verdict"] != NO_DIFFERENCE


def _percent(point: Mapping[str, Any]) -> Value:
    accuracy = point["accuracy"]
    return None if accuracy is None else 100 * accuracy, True


def _share(document: Document, point: Mapping[str, Any]) -> float:
    """Return what a cut takes of what ratios are shares of; earlier versions do not say, and count heads."""
    said = point.get("share")
    return float(point["removed"] / max(document["heads"], 1) if said is None else said)


def _knee_words(document: Document, point: Mapping[str, Any], counted: str) -> str:
    if counted == "heads":
        return f"{point['removed']} of {document['heads']} heads"
    return f"{100 * _share(document, point):.0f} % of {counted}"


def _row(point: Document, document: Document, knee: bool, sizes: int) -> tuple[str, ...]:
    accuracy, speedup = point["accuracy"], point["speedup"]
    speeds = [_speedup(point, size) for size in range(sizes if sizes > 1 else 0)]
    return (
        f"{point['ratio']:.0%}",
        gone_words(
            document.get("ratio_of", "heads"),
            document["heads"],
            point["removed"],
            point.get("units", {}),
        ),
        f"{point['drift']:.3g}",
        "" if accuracy is None else spelled(accuracy),
        "" if speedup is None else f"{speedup:.2f}x",
        *("" if found is None else f"{'' if measured else '= '}{found:.2f}x" for found, measured in speeds),
        "knee" if knee else "",
    )
