"""The picture of `bench`: latency against sizes, with intervals."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onnxheadprune.benchmarking.result import Benchmark, Cell, GridPoint
from onnxheadprune.cli.report.figure import check_picture, save_figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette: told apart by colour-blind readers as well."""
MARKERS = "osD^vPX"
_PANEL = (4.4, 3.4)
_COLUMNS = 3
_DECADE = 10
"""Latencies further apart than this are drawn on a logarithmic axis."""


def plot_latencies(result: Benchmark, path: Path) -> None:
    """Writes a picture: one panel per family of points, one line per model, bars for intervals of medians.

    Args:
        result: the benchmark.
        path: where to; its suffix decides the format.

    Raises:
        UsageError: if it cannot be written.
    """
    from matplotlib.figure import Figure

    check_picture(path)
    panels = _panels(result.points)
    columns = min(len(panels), _COLUMNS)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for spare in grid[len(panels) :]:
        spare.set_axis_off()
    for axes, (title, axis_name, size_of, points) in zip(grid, panels, strict=False):
        _draw(axes, result, points, size_of)
        axes.set(title=title, xlabel=axis_name, ylabel="latency, ms (median)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 2), frameon=False)
    figure.suptitle(f"{result.provider.label}, onnxruntime {result.versions['onnxruntime']}", fontsize=9)
    save_figure(figure, path)


Size = Callable[[GridPoint], int]
Panel = tuple[str, str, Size, Sequence[GridPoint]]


def _panels(points: Sequence[GridPoint]) -> list[Panel]:
    """Points that differ along one axis only share a panel: the axis with the most sizes is drawn."""
    panels: list[Panel] = []
    for decode, family in itertools.groupby(points, key=lambda point: point.is_decode):
        own = list(family)
        lengths = {_length(point) for point in own}
        batches = {point.batch for point in own}
        by_length = len(lengths) >= len(batches) and len(lengths) > 1
        groups: dict[Any, list[GridPoint]] = defaultdict(list)
        for point in own:
            groups[point.batch if by_length else _length(point)].append(point)
        for key, members in groups.items():
            panels.append((*_titles(key, by_length, decode), members))
    return panels


def _titles(key: Any, by_length: bool, decode: bool) -> tuple[str, str, Size]:
    what = "length of the cache" if decode else "sequence length"
    step = "decode step, " if decode else ""
    if by_length:
        return f"{step}batch {key}", what, lambda point: _length(point) or 0
    suffix = "" if key is None else f", {what} {key}"
    return f"{step}by batch size{suffix}", "batch", lambda point: point.batch


def _length(point: GridPoint) -> int | None:
    return point.past if point.is_decode else point.seq


def _draw(axes: Any, result: Benchmark, points: Sequence[GridPoint], size_of: Size) -> None:
    sizes = [size_of(point) for point in points]
    order = sorted(range(len(points)), key=lambda index: sizes[index])
    # Sizes are drawn at equal distances: a grid of powers of two is read better that way.
    places = list(range(len(order)))
    count = len(result.models)
    for model, facts in enumerate(result.models):
        cells = [_cell(result, model, points[index]) for index in order]
        shift = 0.06 * (model - (count - 1) / 2)
        middle = [1000 * cell.latency.p50 for cell in cells]
        low = [max(0.0, 1000 * (cell.latency.p50 - cell.latency.low)) for cell in cells]
        high = [max(0.0, 1000 * (cell.latency.high - cell.latency.p50)) for cell in cells]
        axes.errorbar(
            [place + shift for place in places],
            middle,
            yerr=[low, high],
            color=COLOURS[model % len(COLOURS)],
            marker=MARKERS[model % len(MARKERS)],
            markersize=5,
            linewidth=1.4,
            capsize=3,
            label=facts.name if len(facts.name) <= 48 else f"...{facts.name[-45:]}",
        )
    axes.set_xticks(places, [str(sizes[index]) for index in order])
    axes.set_xlim(-0.4, len(places) - 0.6)
    medians = [cell.latency.p50 for cell in result.cells if cell.point in points]
    if max(medians) > _DECADE * min(medians):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _cell(result: Benchmark, model: int, point: GridPoint) -> Cell:
    return next(cell for cell in result.cells if cell.model == model and cell.point == point)
