"""The plot of `sweep`: drift, accuracy and speed against the size of the cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal, TypeAlias, get_args

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox

from onnxheadprune.benchmarking.measure import NO_DIFFERENCE
from onnxheadprune.errors import UsageError
from onnxheadprune.model.spelling import count, escaped, shortened
from onnxheadprune.reporting.pictures.style import (
    ACCURACY,
    DRIFT,
    GREY,
    SPEED,
    STYLE,
    WIDTH,
    Picture,
    picture,
)
from onnxheadprune.workflow.curve import Curve, CurvePoint

Against: TypeAlias = Literal["heads", "operations", "bytes", "parameters", "speedup"]
COUNTED: tuple[Against, ...] = ("heads", "operations", "bytes")
"""The wholes that ratios may be shares of."""
PANEL_HEIGHT = 1.75
LEAST_SPAN = 0.02
"""Of an axis of accuracies: a difference of one label in hundreds must not fill a picture."""
TITLE = 60
SPARE = 12
"""Pixels around the name of the knee that stay free: numbers move a little when the picture is laid out anew."""


@dataclass(frozen=True)
class Quantity:
    """A quantity along one axis of the plot."""

    label: str  # its name with its unit
    values: tuple[float | None, ...]  # one per point, None where it was not measured
    # low and high ends per point, None where there are none
    intervals: tuple[tuple[float, float] | None, ...]
    hollow: tuple[bool, ...]  # points without a measurable difference from the original

    @property
    def is_known(self) -> bool:
        """True if a line can be drawn."""
        return sum(value is not None for value in self.values) > 1


def plot_curve(curve: Curve, x: Against | None = None) -> Picture:
    """Drift, accuracy and measured speed, one panel each, above one axis.

    Args:
        curve: the result of a sweep.
        x: the axis: the removed share of heads, operations or bytes, the remaining share of parameters, or
            the measured speed. None is the share that ratios were given for. The speed has 95 %
            intervals, and is hollow where no difference could be measured.

    Raises:
        UsageError: if `x` is none of these, or was not measured.
    """
    counted: Against = next(item for item in COUNTED if item == curve.counted)
    x = x or counted
    if x not in get_args(Against):
        raise UsageError(f"a curve is drawn against {', '.join(get_args(Against))}, not {x!r}")
    if x in COUNTED and x != curve.counted:
        raise UsageError(
            f"the ratios of this curve are of {curve.counted}, not of {x}; draw it against {curve.counted}, parameters"
            " or speedup"
        )
    along = _along(curve, x)
    if any(value is None for value in along.values):
        raise UsageError(
            f"the curve does not say what its cuts have of {x}; sweep again, or draw it against {curve.counted}"
        )
    lines = [(_plain(f"drift ({curve.unit})", curve, lambda point: point.drift), DRIFT, "o")]
    lines.append((_plain("accuracy", curve, lambda point: point.accuracy), ACCURACY, "s"))
    if x != "speedup":
        lines.append((_speed(curve), SPEED, "D"))
    shown = [item for item in lines if item[0].is_known] or lines[:1]
    with mpl.rc_context(STYLE):
        figure = picture(WIDTH, 1.1 + PANEL_HEIGHT * len(shown))
        panels = list(figure.subplots(len(shown), 1, sharex=True, squeeze=False).flatten())
        for axes, (quantity, colour, marker) in zip(panels, shown, strict=True):
            _draw(axes, along, quantity, colour, marker)
        for axes in panels[:-1]:
            axes.tick_params(labelbottom=False)
        hollow = any(any(item.hollow) for item in (along, *(quantity for quantity, _, _ in shown)))
        panels[-1].set_xlabel(
            along.label + ("\n(hollow: no measurable difference in speed)" if hollow else "")
        )
        figure.suptitle(shortened(escaped(PurePath(curve.model).name), TITLE))
        figure.align_ylabels(panels)
        knee = _mark_knee(panels, curve, along)
        if x not in COUNTED:
            _number(figure, panels[0], (along, shown[0][0]), curve, knee)
    return figure


def _plain(label: str, curve: Curve, value: Callable[[CurvePoint], float | None]) -> Quantity:
    nothing = tuple(None for _ in curve.points)
    return Quantity(
        label, tuple(value(point) for point in curve.points), nothing, tuple(False for _ in nothing)
    )


def _speed(curve: Curve) -> Quantity:
    """The least speed-up over the measured sizes, with the interval at that size."""
    intervals: list[tuple[float, float] | None] = []
    hollow = []
    for point in curve.points:
        if point.speed is None:
            intervals.append(None)
            hollow.append(False)
            continue
        _, least = min(point.speed.cells, key=lambda item: item[1].speedup)
        intervals.append((1 / least.ratio.high, 1 / least.ratio.low))
        hollow.append(least.verdict == NO_DIFFERENCE)
    values = tuple(point.speedup for point in curve.points)
    return Quantity("times as fast", values, tuple(intervals), tuple(hollow))


def _along(curve: Curve, x: Against) -> Quantity:
    if x in COUNTED:
        label = f"% of {curve.heads}" if x == "heads" else "% of those of all blocks"
        return _plain(f"{x} removed, {label}", curve, lambda point: 100 * curve.share(point))
    if x == "speedup":
        return _speed(curve)
    whole = curve.elements
    label = "parameters left" if whole is None else f"parameters left, % of {count(whole)}"

    def left(point: CurvePoint) -> float | None:
        return None if point.elements is None or not whole else 100 * point.elements / whole

    return _plain(label, curve, left)


def _draw(axes: Axes, along: Quantity, quantity: Quantity, colour: str, marker: str) -> None:
    known = [index for index, value in enumerate(quantity.values) if value is not None]
    xs = [along.values[index] or 0.0 for index in known]
    ys = [quantity.values[index] or 0.0 for index in known]
    axes.plot(xs, ys, color=colour, zorder=2)
    for position, index in enumerate(known):
        hollow = along.hollow[index] or quantity.hollow[index]
        axes.errorbar(
            xs[position],
            ys[position],
            xerr=_bars(xs[position], along.intervals[index]),
            yerr=_bars(ys[position], quantity.intervals[index]),
            color=colour,
            marker=marker,
            markerfacecolor="white" if hollow else colour,
            capsize=3,
            elinewidth=1.3,
            zorder=3,
        )
    axes.set_ylabel(quantity.label)
    axes.margins(x=0.04, y=0.14)
    if quantity.label == "accuracy":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
        low, high = min(ys), max(ys)
        if high - low < LEAST_SPAN:
            middle = (low + high) / 2
            axes.set_ylim(middle - 0.6 * LEAST_SPAN, middle + 0.6 * LEAST_SPAN)


def _bars(value: float, interval: tuple[float, float] | None) -> list[list[float]] | None:
    """Lengths of error bars in matplotlib's form."""
    if interval is None:
        return None
    low, high = interval
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def _mark_knee(panels: Sequence[Axes], curve: Curve, along: Quantity) -> Annotation | None:
    """A line through all panels, and its name above the first; None without a knee."""
    if curve.knee is None:
        return None
    at = along.values[curve.knee] or 0.0
    for axes in panels:
        axes.axvline(at, color=GREY, linestyle=":", linewidth=1.4, zorder=1)
    low, high = panels[0].get_xlim()
    part = (at - low) / (high - low)
    side: Literal["left", "center", "right"] = "left" if part < 0.25 else "right" if part > 0.75 else "center"
    return panels[0].annotate(
        f"knee: {_knee_words(curve, curve.points[curve.knee])} removed",
        (at, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha=side,
        va="bottom",
        color=GREY,
        fontsize=10,
    )


def _knee_words(curve: Curve, point: CurvePoint) -> str:
    if curve.counted == "heads":
        return f"{point.removed} of {curve.heads} heads"
    return f"{100 * curve.share(point):.0f} % of {curve.counted}"


def _number(
    figure: Picture, axes: Axes, drawn: tuple[Quantity, Quantity], curve: Curve, knee: Annotation | None
) -> None:
    """Label each point with the removed share, where it covers no other text."""
    along, quantity = drawn
    figure.draw_without_rendering()
    taken: list[Bbox] = [] if knee is None else [knee.get_window_extent().padded(SPARE)]
    for index, point in enumerate(curve.points):
        value = quantity.values[index]
        if value is None or index == curve.knee:
            continue
        text = axes.annotate(
            _gone(curve, point),
            (along.values[index] or 0.0, value),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=GREY,
            fontsize=9,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
        box = text.get_window_extent()
        if any(box.overlaps(other) for other in taken) or not figure.bbox.containsx(box.x0):
            text.remove()
        else:
            taken.append(box)


def _gone(curve: Curve, point: CurvePoint) -> str:
    number = f"{point.removed}" if curve.counted == "heads" else f"{100 * curve.share(point):.0f} %"
    of = "heads" if curve.counted == "heads" else f"% of {curve.counted}"
    return number if point.removed else f"0 {of} removed"
