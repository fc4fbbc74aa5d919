"""The picture of `bench`: latency against sizes, with intervals."""

from __future__ import annotations

import itertools
import textwrap
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes

from onnxheadprune.benchmarking.result import Benchmark, Cell, GridPoint
from onnxheadprune.cli.report.pictures.style import (
    COLOURS,
    MARKERS,
    SPAN,
    STYLE,
    WIDTH,
    Picture,
    factors,
    legend_below,
    picture,
)
from onnxheadprune.model.spelling import short_names

PANEL_WIDTH, PANEL_HEIGHT = 3.9, 3.1
"""Inches of a panel, where there are several."""
COLUMNS = 3
TITLE = 34
"""Characters of a line above a panel."""


@dataclass(frozen=True)
class Panel:
    """Points that differ along one axis only.

    Attributes:
        title: what they share.
        axis: the name of what differs.
        size_of: gives it.
        points: in the order of the grid.
    """

    title: str
    axis: str
    size_of: Callable[[GridPoint], int]
    points: Sequence[GridPoint]


def plot_latency(result: Benchmark) -> Picture:
    """Latency against sizes: one panel per family of sizes, one line per model, bars for 95 % intervals of medians.

    An axis begins at zero, or is logarithmic where one latency is more than ten times another.

    Args:
        result: the benchmark.
    """
    panels = _panels(result.points)
    columns = min(len(panels), COLUMNS)
    rows = -(-len(panels) // columns)
    width = WIDTH if columns == 1 else PANEL_WIDTH * columns
    with mpl.rc_context(STYLE):
        figure = picture(width, PANEL_HEIGHT * rows + 0.4 + 0.22 * len(result.models))
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for spare in grid[len(panels) :]:
            spare.set_axis_off()
        for index, (axes, panel) in enumerate(zip(grid, panels, strict=False)):
            _draw(axes, result, panel)
            title = textwrap.fill(panel.title, TITLE) if columns > 1 else panel.title
            axes.set(title=title, xlabel=panel.axis)
            if index % columns == 0:
                axes.set_ylabel("median latency, ms")
        handles, labels = grid[0].get_legend_handles_labels()
        figure.suptitle(f"{result.provider.label}, onnxruntime {result.versions['onnxruntime']}", fontsize=10)
        legend_below(figure, list(zip(handles, labels, strict=True)))
    return figure


def _panels(points: Sequence[GridPoint]) -> list[Panel]:
    """Points that differ along one axis only share a panel: the axis with the most sizes is drawn."""
    panels: list[Panel] = []
    for decode, family in itertools.groupby(points, key=lambda point: point.is_decode):
        own = list(family)
        lengths = {_length(point) for point in own}
        batches = {point.batch for point in own}
        by_length = len(lengths) >= len(batches) and len(lengths) > 1
        groups: dict[int | None, list[GridPoint]] = defaultdict(list)
        for point in own:
            groups[point.batch if by_length else _length(point)].append(point)
        panels += [_panel(key, members, by_length, decode) for key, members in groups.items()]
    return panels


def _panel(shared: int | None, points: Sequence[GridPoint], by_length: bool, decode: bool) -> Panel:
    """The panel of points that share a batch size, or a length."""
    what = "length of the cache" if decode else "sequence length"
    step = "decode step, " if decode else ""
    if by_length:
        return Panel(f"{step}batch {shared}", what, lambda point: _length(point) or 0, points)
    title = "" if shared is None else f"{what} {shared}"
    return Panel(f"{step}{title}".removesuffix(", "), "batch size", lambda point: point.batch, points)


def _length(point: GridPoint) -> int | None:
    return point.past if point.is_decode else point.seq


def _draw(axes: Axes, result: Benchmark, panel: Panel) -> None:
    points = sorted(panel.points, key=panel.size_of)
    names = short_names([facts.name for facts in result.models])
    # Sizes are drawn at equal distances: a grid of powers of two is read better that way.
    places = range(len(points))
    count = len(result.models)
    ends: list[float] = []
    for model in range(count):
        cells = [_cell(result, model, point) for point in points]
        shift = 0.06 * (model - (count - 1) / 2)
        middle = [1000 * cell.latency.p50 for cell in cells]
        low = [max(0.0, 1000 * (cell.latency.p50 - cell.latency.low)) for cell in cells]
        high = [max(0.0, 1000 * (cell.latency.high - cell.latency.p50)) for cell in cells]
        ends += [value - less for value, less in zip(middle, low, strict=True)]
        ends += [value + more for value, more in zip(middle, high, strict=True)]
        axes.errorbar(
            [place + shift for place in places],
            middle,
            yerr=[low, high],
            color=COLOURS[model % len(COLOURS)],
            marker=MARKERS[model % len(MARKERS)],
            capsize=3.5,
            label=names[model] if names.count(names[model]) == 1 else f"{names[model]} ({model})",
        )
    axes.set_xticks(list(places), [str(panel.size_of(point)) for point in points])
    axes.set_xlim(-0.45, len(points) - 0.55)
    axes.grid(visible=False, axis="x")
    medians = [cell.latency.p50 for cell in result.cells if cell.point in points]
    if max(medians) > SPAN * min(medians):
        factors(axes, min(ends), max(ends))
    else:
        axes.set_ylim(0, 1.08 * max(ends))


def _cell(result: Benchmark, model: int, point: GridPoint) -> Cell:
    return next(cell for cell in result.cells if cell.model == model and cell.point == point)
