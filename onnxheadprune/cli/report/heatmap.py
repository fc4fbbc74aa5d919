"""Sites by heads as a heat map: in the terminal, and as a picture."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.text import Text

from onnxheadprune.cli.report.escaping import escaped
from onnxheadprune.cli.report.figure import save_figure

Scores = Mapping[str, Sequence[float | None]]
Removed = Mapping[str, Collection[int]]
SHADES = " ░▒▓█"


def heat_rows(scores: Scores, removed: Removed | None = None) -> Iterator[RenderableType]:
    """One line per site: a shade per head, dark for heads that are worth much, x for heads that go.

    Args:
        scores: per site, by head; None for heads that have no score.
        removed: heads that go, per site.
    """
    ranks = _ranks(scores)
    shown = {name: escaped(name) for name in scores}
    width = max(map(len, shown.values()), default=0)
    yield ""
    for name, values in scores.items():
        line = Text(f"{shown[name][:60]:{min(width, 60)}}  ", style="bold")
        gone = set((removed or {}).get(name, ()))
        for head, value in enumerate(values):
            if head in gone:
                line.append("x ", style="red")
            elif value is None:
                line.append("· ", style="dim")
            else:
                line.append(
                    SHADES[min(int(ranks[name][head] * len(SHADES)), len(SHADES) - 1)] * 2, style="cyan"
                )
        yield line
    legend = "darker: worth more (by rank over all sites)"
    yield Text(f"{'':{min(width, 60)}}  {legend}" + ("; x: removed" if removed else ""), style="dim")


def _ranks(scores: Scores) -> dict[str, list[float]]:
    """Each score's rank among all, from 0 to 1: a few huge ones must not hide the rest."""
    known = np.sort([value for values in scores.values() for value in values if value is not None])
    count = max(len(known) - 1, 1)
    return {
        name: [0.0 if value is None else float(np.searchsorted(known, value)) / count for value in values]
        for name, values in scores.items()
    }


def save_heatmap(scores: Scores, path: Path, *, title: str = "", removed: Removed | None = None) -> None:
    """Draws the heat map into a file.

    Args:
        scores: per site, by head.
        path: a .png, .svg or .pdf file.
        title: above the picture.
        removed: heads that go; they are crossed out.

    Raises:
        UsageError: if the file is none of these, or cannot be written.
    """
    save_figure(_figure(scores, title, removed), path)


def _figure(scores: Scores, title: str, removed: Removed | None) -> Any:
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.figure import Figure

    columns = max((len(values) for values in scores.values()), default=1)
    grid = np.full((len(scores), columns), np.nan)
    for row, values in enumerate(scores.values()):
        for column, value in enumerate(values):
            grid[row, column] = np.nan if value is None else value
    positive = grid[np.isfinite(grid) & (grid > 0)]
    spread = positive.size > 1 and positive.max() / positive.min() > 50
    norm = LogNorm(max(positive.min(), positive.max() * 1e-6), positive.max()) if spread else Normalize()
    figure = Figure(
        figsize=(max(4.5, 0.34 * columns + 3.2), max(2.4, 0.3 * len(scores) + 1.5)), layout="constrained"
    )
    axes: Any = figure.subplots()
    floor = positive.min() if spread else -np.inf
    axes.set_facecolor("lightgrey")
    shown = axes.imshow(
        np.fmax(grid, np.where(np.isnan(grid), np.nan, floor)), cmap="viridis", norm=norm, aspect="auto"
    )
    for row, name in enumerate(scores):
        for head in (removed or {}).get(name, ()):
            axes.plot(head, row, marker="x", color="white", markersize=8, markeredgewidth=3.5)
            axes.plot(head, row, marker="x", color="crimson", markersize=7, markeredgewidth=1.8)
    axes.set_xlabel("head (grey: stays in any case" + (", crossed: removed)" if removed else ")"))
    axes.set_xticks(range(columns), [str(head) for head in range(columns)], fontsize=7)
    axes.set_yticks(range(len(scores)), [escaped(name)[-34:] for name in scores], fontsize=7)
    axes.set_title(title, fontsize=9)
    figure.colorbar(shown, ax=axes, label="what a head is worth")
    return figure
