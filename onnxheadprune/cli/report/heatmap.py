"""Sites by heads as a heat map in the terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from rich.console import RenderableType
from rich.text import Text

from onnxheadprune.cli.report.escaping import escaped

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
