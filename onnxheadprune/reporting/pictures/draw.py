"""The plots of results: maps of heads, curves of a sweep, latencies with intervals. Matplotlib lays them out."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from onnxheadprune.display.facts import Curves, Facts, Intervals, Plot, Quantity, UnitMap
from onnxheadprune.display.html import text_of
from onnxheadprune.display.spelling import escaped, shortened
from onnxheadprune.reporting.pictures.style import (
    ACCURACY,
    COLOURS,
    DRIFT,
    GREY,
    LINES,
    MARKERS,
    SPEED,
    STYLE,
    Picture,
)

if TYPE_CHECKING:
    from onnxheadprune.benchmarking.result import Benchmark
    from onnxheadprune.choosing.scoring.scores import HeadScores
    from onnxheadprune.workflow.curve import Against, Curve
    from onnxheadprune.workflow.result import PruneResult

WIDTH, PANEL = 5.0, 1.75
"""Inches of a picture, and of the height of a panel: still read on a phone, where it is three quarters as wide."""
CELL, SMALL_CELL, MANY = 0.31, 0.25, 16
"""Inches of a head, of one of many, and how many are many."""
ROW = 0.24
"""Inches of a latency."""
LONGEST, NAME, LETTER, LINE = 60, 34, 0.085, 0.2
"""Characters of a title or label, of a site's or a size's name, and inches of a character and a line."""
SPAN, SPAN_OF_SCORES = 10, 50
"""Times that the largest value may be the smallest one on a linear axis, and on a linear scale of colours."""
LEAST_SPAN = 2.0
"""Points that an axis in percent spans at least: a difference of one label in hundreds must not fill a picture."""
PlotKind = TypeVar("PlotKind", UnitMap, Curves, Intervals)


def plot_heads(found: HeadScores | PruneResult) -> Picture:
    """A square per head, one row per site: its score, and whether it is removed.

    Args:
        found: scores, or a pruned model; heads that were named by the user have no scores.
    """
    return picture_of(_plot_in(found.facts(), UnitMap))


def plot_curve(curve: Curve, x: Against | None = None) -> Picture:
    """Drift, accuracy and measured speed, one panel each, above one axis.

    Args:
        curve: the result of a sweep.
        x: the axis: the removed share of heads, operations or bytes, the remaining share of parameters, or
            the measured speed. None is the share that ratios were given for. The speed has
            intervals, and is hollow where no difference could be measured.

    Raises:
        UsageError: if `x` is none of these, or was not measured.
    """
    return picture_of(curve.plot(x))


def plot_latency(result: Benchmark) -> Picture:
    """Median latencies with their intervals: a group of rows per size, a row per model.

    The axis begins at zero, or is logarithmic where one latency is more than ten times another.
    """
    return picture_of(_plot_in(result.facts(), Intervals))


def _plot_in(facts: Facts, kind: type[PlotKind]) -> PlotKind:
    return next(part for part in facts.everything if isinstance(part, kind))


def picture_of(plot: Plot) -> Picture:
    """A plot, drawn."""
    with mpl.rc_context(STYLE):
        if isinstance(plot, UnitMap):
            return _map(plot)
        return _curves(plot) if isinstance(plot, Curves) else _intervals(plot)


_THEMED = {"#000000": "ink", "#ffffff": "card", GREY: "soft", LINES: "line"}
"""Names in a page's theme of colours that depend on it."""
_UNWANTED = re.compile(r' id="[a-z]+_[0-9]+"| xmlns(:xlink)?="[^"]*"| version="[^"]*"')


def svg_of(plot: Plot) -> str:
    """A plot as SVG inside a page, in the colours of its theme, without addresses; its letters stay text."""
    content, nothing = io.BytesIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({**STYLE, "svg.fonttype": "none", "savefig.transparent": True}):
        picture_of(plot).savefig(content, format="svg", metadata=nothing)
    svg = content.getvalue().decode()
    svg = _UNWANTED.sub("", svg[svg.index("<svg") :])
    for colour, name in _THEMED.items():
        svg = svg.replace(colour, f"var(--{name})")
    # On a phone three quarters as wide, and where that is too much it can be scrolled.
    width = float(svg.partition('width="')[2].partition("pt")[0])
    size = f"width:{width}pt;min-width:{0.75 * width}pt;max-width:100%"
    opening = f'<svg role="img" aria-label="{text_of(plot.title or "plot")}" style="{size}"'
    return re.sub(r'<svg( height="[^"]*"| width="[^"]*")*', lambda _: opening, svg, count=1)


def _map(plot: UnitMap) -> Picture:
    columns, rows = max((len(strip.scores) for strip in plot.strips), default=1), len(plot.strips)
    cell = CELL if columns <= MANY else SMALL_CELL
    names = [shortened(escaped(f"{strip.key} {strip.name}".rstrip()), NAME) for strip in plot.strips]
    most = max(NAME, int(cell * columns / LETTER))
    title, below = (textwrap.wrap(escaped(line), most) for line in (plot.title, "; ".join(_meanings(plot))))
    width = max(cell * columns + (1 if plot.is_scored else 0.2), LETTER * most)
    width += LETTER * max(map(len, names), default=0)
    height = cell * rows + LINE * len((*title, *below)) + 0.6
    figure = Picture(figsize=(width, height), layout="constrained")
    axes, norm = figure.subplots(), _norm(plot)
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal", anchor="NW")
    axes.set_xticks(range(0, columns, 1 if columns <= MANY else 4))
    axes.set_yticks(range(rows), names)
    axes.set_xlabel("\n".join(below), loc="left")
    axes.set_title("\n".join(title), loc="left")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, strip in enumerate(plot.strips):
        for position, score in enumerate(strip.scores):
            full = SPEED if not plot.is_scored else "none" if score is None else SHADES(float(norm(score)))
            edge = GREY if full == "none" else full
            axes.add_patch(
                Rectangle(
                    (position - 0.44, row - 0.44), 0.88, 0.88, facecolor=full, edgecolor=edge, linewidth=0.8
                )
            )
        for position in strip.gone:
            axes.plot(position, row, "x", color="white", markersize=9, markeredgewidth=4)
            axes.plot(position, row, "x", color=DRIFT, markersize=8, markeredgewidth=2.2)
    if plot.is_scored:
        place = axes.inset_axes((1 + 0.5 / columns, 0, 0.5 / columns, 1))
        bar = figure.colorbar(ScalarMappable(norm, SHADES), cax=place, format=FuncFormatter(_spelled))
        bar.locator = LogLocator(numticks=4) if isinstance(norm, LogNorm) else MaxNLocator(min(rows, 5))
        bar.minorticks_off()
        bar.outline.set_visible(False)
    return figure


SHADES = ListedColormap([mpl.colormaps["cividis"](0.15 + 0.85 * step / 31) for step in range(32)])
"""From low to high scores: told apart by everybody and in grey, on white and on a dark page, few enough to be drawn."""


def _meanings(plot: UnitMap) -> Iterator[str]:
    """Yield what there is along the axis, and what squares mean."""
    yield plot.units
    if plot.is_scored:
        yield f"brighter: higher score ({plot.scale})" if plot.scale else "brighter: higher score"
        gone = [
            (unit in strip.gone, score) for strip in plot.strips for unit, score in enumerate(strip.scores)
        ]
        if (False, None) in gone:
            yield f"hollow: {plot.unscored}"
    if any(strip.gone for strip in plot.strips):
        yield "crossed: removed"


def _norm(plot: UnitMap) -> Normalize:
    """A linear scale, or a logarithmic one where small scores would look equal; six powers of ten at most."""
    known = [value for strip in plot.strips for value in strip.scores if value is not None]
    positive = [value for value in known if value > 0]
    if positive and max(positive) > SPAN_OF_SCORES * min(positive):
        return LogNorm(max(min(positive), max(positive) * 1e-6), max(positive), clip=True)
    return Normalize(min(known, default=0), max(known, default=1))


def _curves(plot: Curves) -> Picture:
    figure = Picture(figsize=(WIDTH, 1.1 + PANEL * len(plot.quantities)), layout="constrained")
    panels = list(figure.subplots(len(plot.quantities), 1, sharex=True, squeeze=False).flatten())
    for axes, quantity, colour, marker in zip(panels, plot.quantities, _LINES, MARKERS, strict=False):
        _line(axes, plot.along, quantity, colour, marker)
    hollow = any(any(each.hollow) for each in (plot.along, *plot.quantities))
    below = "\n(hollow: no measurable difference in speed)" if hollow else ""
    panels[-1].set_xlabel(escaped(plot.along.label) + below)
    figure.suptitle(shortened(escaped(plot.title), LONGEST))
    figure.align_ylabels(panels)
    if plot.mark is not None:
        at = plot.along.values[plot.mark] or 0.0
        for axes in panels:
            axes.axvline(at, color=GREY, linestyle=":", linewidth=1.4, zorder=1)
        panels[0].set_title(escaped(plot.mark_words), color=GREY, fontsize=10)
    return figure


_LINES = (DRIFT, ACCURACY, SPEED)


def _line(axes: Axes, along: Quantity, quantity: Quantity, colour: str, marker: str) -> None:
    known = [(x, y, place) for place, (x, y) in enumerate(zip(along.values, quantity.values, strict=True))]
    points = [(x, y, place) for x, y, place in known if x is not None and y is not None]
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], color=colour, zorder=2)
    for x, y, place in points:
        hollow = any(each.hollow[place] for each in (along, quantity) if each.hollow)
        axes.errorbar(
            x,
            y,
            xerr=_bars(along, place),
            yerr=_bars(quantity, place),
            color=colour,
            marker=marker,
            markerfacecolor="white" if hollow else colour,
            capsize=3,
            elinewidth=1.3,
            zorder=3,
        )
    axes.set_ylabel(escaped(quantity.label))
    axes.margins(x=0.04, y=0.14)
    ys = [y for _, y, _ in points]
    if "%" in quantity.label and ys and max(ys) - min(ys) < LEAST_SPAN:
        middle = (min(ys) + max(ys)) / 2
        axes.set_ylim(middle - 0.6 * LEAST_SPAN, middle + 0.6 * LEAST_SPAN)


def _bars(quantity: Quantity, place: int) -> list[list[float]] | None:
    """Lengths of the error bars of a value in matplotlib's form, None without an interval."""
    value, ends = quantity.values[place], quantity.ends[place] if quantity.ends else None
    if value is None or ends is None:
        return None
    return [[max(0.0, value - ends[0])], [max(0.0, ends[1] - value)]]


def _intervals(plot: Intervals) -> Picture:
    count, groups = len(plot.quantities), len(plot.groups)
    figure = Picture(figsize=(WIDTH, ROW * (count + 1) * groups + 1 + 0.22 * count), layout="constrained")
    axes = figure.subplots()
    names = [shortened(escaped(each.label), LONGEST) for each in plot.quantities]
    for index, quantity in enumerate(plot.quantities):
        for group, value in enumerate(quantity.values):
            axes.errorbar(
                [] if value is None else [value],
                [] if value is None else [(count + 1) * group + index],
                xerr=_bars(quantity, group),
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                linestyle="none",
                elinewidth=2.5,
                label=""
                if group
                else names[index]
                if names.count(names[index]) == 1
                else f"{names[index]} ({index})",
            )
    middles = [(count + 1) * group + (count - 1) / 2 for group in range(groups)]
    axes.set_yticks(middles, [shortened(escaped(name), NAME) for name in plot.groups])
    axes.set_ylim((count + 1) * groups - 1, -1)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    for group in range(1, groups):
        axes.axhline((count + 1) * group - 1, color=LINES, linewidth=0.8)
    axes.set_xlabel(escaped(plot.label))
    axes.set_title(shortened(escaped(plot.title), LONGEST), fontsize=10)
    _scale(axes, plot)
    figure.legend(loc="outside lower center")
    return figure


def _scale(axes: Axes, plot: Intervals) -> None:
    """An axis from zero, or a logarithmic one with numbers as people write them."""
    ends = [end for each in plot.quantities for pair in each.ends if pair is not None for end in pair]
    medians = [value for each in plot.quantities for value in each.values if value is not None]
    every = [*ends, *medians]
    if not every or min(every) <= 0 or max(medians) <= SPAN * min(medians):
        axes.set_xlim(0, 1.08 * max(every, default=1))
        return
    axes.set_xscale("log")
    axes.set_xlim(min(every) / 1.25, max(every) * 1.25)
    # One number per power of ten says too little of one or two of them, and three say too much of many.
    subs = (1.0, 2.0, 5.0) if max(every) < 1000 * min(every) else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(_spelled))
    axes.xaxis.set_minor_locator(NullLocator())


def _spelled(value: float, _: float | None = None) -> str:
    """A number of an axis."""
    return f"{value:.3g}"
