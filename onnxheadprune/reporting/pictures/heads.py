"""A plot of sites by heads: the score of every head, and the removed heads."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from onnxheadprune.choosing.scoring.scores import HeadScores
from onnxheadprune.choosing.space import UNTRIED
from onnxheadprune.model.spelling import escaped, shortened
from onnxheadprune.reporting.pictures.style import DRIFT, SPEED, STYLE, Picture, around, picture, spelled
from onnxheadprune.settings.units import called
from onnxheadprune.workflow.result import PruneResult


def plot_heads(found: HeadScores | PruneResult) -> Picture:
    """A square per head, one row per site: its score, and whether it is removed.

    Args:
        found: scores, or a pruned model; heads that were named by the user have no scores.
    """
    if isinstance(found, HeadScores):
        title = f"{PurePath(found.model).name}: {found.method}"
        return heads_picture(found.by_site(), title=title, unit=found.unit, unscored="removed before")
    plan = found.plan
    gone = sum(len(cut.removed) for cut in plan.cuts)
    title = f"{PurePath(plan.model).name}: {gone} of {sum(cut.num_heads for cut in plan.cuts)} heads removed"
    scores, removed = _cuts(found)
    return heads_picture(scores, removed, title)


def _cuts(found: PruneResult) -> tuple[ScoresBySite, Removed]:
    if found.chosen is not None:
        selection = found.chosen.selection
        cuts = {cut.index: f"{cut.called} {cut.name}" for cut in found.plan.cuts}
        names = {index: cuts.get(index, called(index)) for index in selection.scores}
        scores = {names[index]: values for index, values in selection.scores.items()}
        if any(value is not None for values in scores.values() for value in values):
            return scores, {names[index]: gone for index, gone in selection.heads.items() if index in names}
    named = {f"{cut.called} {cut.name}": cut for cut in found.plan.cuts}
    return (
        {name: (None,) * cut.num_heads for name, cut in named.items()},
        {name: (*cut.removed_before, *cut.removed) for name, cut in named.items()},
    )


Grid = npt.NDArray[np.float64]
ScoresBySite = Mapping[str, Sequence[float | None]]
Removed = Mapping[str, Collection[int]]
CELL, SMALL_CELL = 0.31, 0.25
"""Inches of a head, and of one of many."""
MANY = 16
"""Heads of a site up to which each has its number written below."""
LETTER, NAMES = 0.085, 34
"""Inches of a letter, characters of a site's name."""
WIDE_SPAN = 50
"""Times that the largest score may be the smallest one on a linear scale of colours."""
FEW = 4
"""Sites from which the scale of colours is high enough for round numbers."""
WORTH = "score of a head"
STAYS = "#dfe2e5"
"""Of heads without a score."""


def heads_picture(
    scores: ScoresBySite,
    removed: Removed | None = None,
    title: str = "",
    unit: str = "",
    unscored: str = f"kept, {UNTRIED}",
) -> Picture:
    """A square per head, one row per site: brighter for higher scores, crossed if the head is removed.

    Args:
        scores: per site, by head; None for heads without a score. Without any score the plot only shows which
            heads are kept or removed.
    """
    columns = max((len(values) for values in scores.values()), default=1)
    cell = CELL if columns <= MANY else SMALL_CELL
    width, height = cell * columns, cell * max(len(scores), 1)
    grid = _grid(scores, columns)
    with mpl.rc_context(STYLE):
        figure = picture(width, height)
        axes = figure.subplots()
        if np.isfinite(grid).any():
            _worth(axes, grid, textwrap.fill(escaped(unit) or WORTH, max(len(WORTH), int(height / LETTER))))
        else:
            colours = ListedColormap([STAYS, SPEED])
            axes.imshow(_cut(scores, removed, columns), cmap=colours, vmin=0, vmax=1, aspect="auto")
        has_unscored = _mark(axes, scores, removed or {})
        words = []
        if has_unscored:
            words.append(f"grey: {unscored}")
        if any((removed or {}).values()):
            words.append("crossed: removed")
        said = f"head ({'; '.join(words)})" if words else "head"
        axes.set_xlabel(textwrap.fill(said, max(28, int(width / LETTER))))
        _dress(axes, len(scores), columns)
        axes.set_yticks(range(len(scores)), [shortened(escaped(name), NAMES) for name in scores])
        axes.set_title(textwrap.fill(shortened(escaped(title), 100), max(28, int(width / LETTER))))
        around(figure, axes, width, height)
    return figure


def _worth(axes: Axes, grid: Grid, label: str) -> None:
    rows, columns = grid.shape
    norm = _norm(grid)
    floor = norm.vmin if isinstance(norm, LogNorm) and norm.vmin is not None else -np.inf
    shown = np.where(np.isnan(grid), np.nan, np.fmax(grid, floor))
    # These colours are told apart by everybody, and get brighter all the way for those who print in grey.
    image = axes.imshow(shown, cmap="cividis", norm=norm, aspect="auto")
    place = axes.inset_axes((1 + 0.6 / columns, 0, 0.6 / columns, 1))
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(image, cax=place, format=FuncFormatter(spelled))
    bar.set_ticks(_ticks(norm, rows))
    bar.minorticks_off()
    bar.set_label(label)
    bar.outline.set_visible(False)


def _ticks(norm: Normalize, rows: int) -> list[float]:
    """Numbers beside the scale of colours: both ends where there is room for no more, else round ones in between."""
    low, high = float(norm.vmin or 0), float(norm.vmax or 0)
    if rows < FEW:
        return sorted({low, high}) if rows > 1 else [high]
    locator = LogLocator(numticks=rows) if isinstance(norm, LogNorm) else MaxNLocator(min(rows, 6))
    return [float(tick) for tick in locator.tick_values(low, high) if low <= tick <= high]


def _grid(scores: ScoresBySite, columns: int) -> Grid:
    """Scores as `[site, head]`, NaN where there is none."""
    grid = np.full((max(len(scores), 1), columns), np.nan)
    for row, values in enumerate(scores.values()):
        for column, value in enumerate(values):
            grid[row, column] = np.nan if value is None else value
    return grid


def _norm(grid: Grid) -> Normalize:
    """A linear scale, or a logarithmic one where small scores would look equal; six powers of ten at most."""
    positive = grid[np.isfinite(grid) & (grid > 0)]
    if positive.size > 1 and positive.max() / positive.min() > WIDE_SPAN:
        return LogNorm(max(positive.min(), positive.max() * 1e-6), positive.max())
    return Normalize()


def _cut(scores: ScoresBySite, removed: Removed | None, columns: int) -> Grid:
    """1 for remaining heads, 0 for those that go, NaN beside the last head."""
    grid = np.full((max(len(scores), 1), columns), np.nan)
    for row, (name, values) in enumerate(scores.items()):
        grid[row, : len(values)] = 1
        for head in (removed or {}).get(name, ()):
            grid[row, head] = 0
    return grid


def _mark(axes: Axes, scores: ScoresBySite, removed: Removed) -> bool:
    """Cross removed heads, and make those grey that have no score where others have one."""
    is_scored = any(value is not None for values in scores.values() for value in values)
    has_unscored = False
    for row, (name, values) in enumerate(scores.items()):
        gone = set(removed.get(name, ()))
        for head, value in enumerate(values):
            if head in gone:
                axes.plot(head, row, marker="x", color="white", markersize=9, markeredgewidth=4)
                axes.plot(head, row, marker="x", color=DRIFT, markersize=8, markeredgewidth=2.2)
            elif value is None and is_scored:
                axes.add_patch(Rectangle((head - 0.5, row - 0.5), 1, 1, color=STAYS, linewidth=0))
                has_unscored = True
    return has_unscored


def _dress(axes: Axes, rows: int, columns: int) -> None:
    """White gaps between heads, numbers below, and nothing else around."""
    step = 1 if columns <= MANY else 4
    axes.set_xticks(range(0, columns, step), [str(head) for head in range(0, columns, step)])
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(max(rows, 1) + 1) - 0.5, minor=True)
    axes.grid(visible=False, which="major")
    axes.grid(which="minor", color="white", linewidth=1.6)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.5, columns - 0.5)
