"""The picture of `bench`: a dot for each median, with its interval, size by size as on the page of a report."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.axes import Axes

from onnxheadprune.benchmarking.result import Benchmark, Cell, GridPoint
from onnxheadprune.model.spelling import short_names, shortened
from onnxheadprune.reporting.pictures.style import (
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

ROW = 0.24
"""Inches of a dot's row; a size has one per model, and one that is empty."""
AROUND = 1.1
"""Inches of the axis, the title and the space around."""
LABEL = 34
"""Characters of a size."""


def plot_latency(result: Benchmark) -> Picture:
    """Median latencies with 95 % intervals: a group of rows per size, a row per model.

    The axis begins at zero, or is logarithmic where one latency is more than ten times another.
    """
    points, count = result.points, len(result.models)
    names = short_names([facts.name for facts in result.models])
    height = ROW * (count + 1) * len(points) + AROUND + 0.22 * count
    with mpl.rc_context(STYLE):
        figure = picture(WIDTH, height)
        axes = figure.subplots()
        for model in range(count):
            cells = [_cell(result, model, point) for point in points]
            axes.errorbar(
                [1000 * cell.latency.p50 for cell in cells],
                [(count + 1) * place + model for place in range(len(points))],
                xerr=[
                    [max(0.0, 1000 * (cell.latency.p50 - cell.latency.low)) for cell in cells],
                    [max(0.0, 1000 * (cell.latency.high - cell.latency.p50)) for cell in cells],
                ],
                color=COLOURS[model % len(COLOURS)],
                marker=MARKERS[model % len(MARKERS)],
                linestyle="none",
                elinewidth=2.5,
                label=names[model] if names.count(names[model]) == 1 else f"{names[model]} ({model})",
            )
        axes.set_yticks(
            [(count + 1) * place + (count - 1) / 2 for place in range(len(points))],
            [shortened(point.label, LABEL) for point in points],
        )
        axes.set_ylim((count + 1) * len(points) - 1, -1)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        for place in range(1, len(points)):
            axes.axhline((count + 1) * place - 1, color="#d9dcdf", linewidth=0.8)
        axes.set_xlabel("median latency with its 95 % interval, ms")
        axes.set_title(f"{result.provider.label}, onnxruntime {result.versions['onnxruntime']}", fontsize=10)
        _scale(axes, result)
        handles, labels = axes.get_legend_handles_labels()
        legend_below(figure, list(zip(handles, labels, strict=True)))
    return figure


def _scale(axes: Axes, result: Benchmark) -> None:
    ends = [1000 * end for cell in result.cells for end in (cell.latency.low, cell.latency.high)]
    medians = [cell.latency.p50 for cell in result.cells]
    if max(medians) > SPAN * min(medians):
        factors(axes, min(ends), max(ends))
    else:
        axes.set_xlim(0, 1.08 * max(ends))


def _cell(result: Benchmark, model: int, point: GridPoint) -> Cell:
    return next(cell for cell in result.cells if cell.model == model and cell.point == point)
