"""The curve of a sweep: drift, accuracy and speed against what is gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from onnxheadprune.cli.report.page.charts import Tick, polyline, scale_over
from onnxheadprune.cli.report.page.documents import Document
from onnxheadprune.model.spelling import accuracy as spelled
from onnxheadprune.workflow.curve import gone_words

LEFT, RIGHT, TOP, BOTTOM = 64.0, 700.0, 16.0, 196.0


@dataclass(frozen=True)
class Line:
    """One quantity against the share that is removed.

    Attributes:
        name: with its unit.
        points: "x,y x,y", as SVG wants it.
        dots: pixels of each point, and its words.
        ticks: of the vertical axis.
    """

    name: str
    points: str
    dots: tuple[tuple[float, float, str], ...]
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
        rows: a line of the table each: asked, removed, drift, accuracy, speed, knee.
        model: the file.
    """

    lines: tuple[Line, ...]
    ticks: tuple[Tick, ...]
    along: str
    knee: float | None
    knee_words: str
    rows: tuple[tuple[str, ...], ...]
    model: str


def curve_chart(document: Document) -> CurveChart:
    """Return what a sweep has measured.

    Args:
        document: its result.
    """
    points, counted = document["points"], document.get("ratio_of", "heads")
    shares = [100 * _share(document, point) for point in points]
    horizontal = scale_over(shares or [0.0], LEFT, RIGHT)

    def line(name: str, value: Callable[[Mapping[str, Any]], float | None], zero: bool) -> Line | None:
        measured = [(share, value(point)) for share, point in zip(shares, points, strict=True)]
        known = [(share, number) for share, number in measured if number is not None]
        if len(known) < 2:
            return None
        vertical = scale_over([number for _, number in known], BOTTOM, TOP, zero=zero)
        dots = tuple(
            (horizontal.at(share), vertical.at(number), f"{share:.0f} % of {counted}: {name} {number:.3g}")
            for share, number in known
        )
        return Line(name, polyline([(x, y) for x, y, _ in dots]), dots, tuple(vertical.ticks(4)))

    lines = (
        line(f"drift ({document['drift_unit']})", lambda point: point["drift"], True),
        line("accuracy", lambda point: point["accuracy"], False),
        line("times as fast", lambda point: point["speedup"], False),
    )
    knee = document.get("knee")
    at = None if knee is None else horizontal.at(shares[knee])
    words = "" if knee is None else f"knee: {_knee_words(document, points[knee], counted)}"
    rows = tuple(_row(point, document, index == knee) for index, point in enumerate(points))
    return CurveChart(
        tuple(item for item in lines if item is not None),
        tuple(horizontal.ticks(8)),
        "attention heads removed" if counted == "heads" else f"{counted} of all blocks removed",
        at,
        words,
        rows,
        document["model"],
    )


def _share(document: Document, point: Mapping[str, Any]) -> float:
    """Return what a cut takes of what ratios are shares of; earlier versions do not say, and count heads."""
    said = point.get("share")
    return float(point["removed"] / max(document["heads"], 1) if said is None else said)


def _knee_words(document: Document, point: Mapping[str, Any], counted: str) -> str:
    if counted == "heads":
        return f"{point['removed']} of {document['heads']} heads"
    return f"{100 * _share(document, point):.0f} % of {counted}"


def _row(point: Document, document: Document, knee: bool) -> tuple[str, ...]:
    accuracy, speedup = point["accuracy"], point["speedup"]
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
        "knee" if knee else "",
    )
