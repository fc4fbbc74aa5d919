"""Sites by heads as a heat map in the terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from onnxheadprune.model.spelling import escaped

Scores = Mapping[str, Sequence[float | None]]
Removed = Mapping[str, Collection[int]]
SHADES = "░▒▓█"
CELL, EVERY = 2, 4
"""Characters of a head, and heads from one number above the map to the next where there is no room for all."""
KEPT, REMOVED = "dodger_blue1", "dark_orange"
"""Blue for heads that stay and orange for those that go, as on pages and in pictures."""


def heat_rows(scores: Scores, removed: Removed | None = None) -> Iterator[RenderableType]:
    """A line per site with a shade per head, head numbers above and a legend below.

    Args:
        scores: per site, by head; None for heads that have no score.
        removed: heads that are removed, per site.
    """
    yield ""
    yield _HeatMap(scores, removed or {})


@dataclass(frozen=True)
class _HeatMap:
    """The map; where names and heads do not fit beside each other, the heads follow below their name."""

    scores: Scores
    removed: Removed

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Choose the layout by the available width."""
        names = {name: escaped(name) for name in self.scores}
        heads = max(map(len, self.scores.values()), default=0)
        indent = max(map(len, names.values()), default=0) + 2
        strips = self._strips()
        if indent + CELL * heads <= options.max_width:
            yield Text(" " * indent + _numbers(0, heads).rstrip(), style="dim")
            for name, strip in strips.items():
                yield Text.assemble((names[name].ljust(indent), "bold"), strip)
        else:
            indent, room = 2, (options.max_width - 2) // CELL // EVERY * EVERY or EVERY
            for name, strip in strips.items():
                yield Text(names[name], style="bold")
                for start in range(0, len(self.scores[name]), room):
                    end = min(start + room, len(self.scores[name]))
                    yield Text("  " + _numbers(start, end).rstrip(), style="dim")
                    yield Text.assemble("  ", strip[CELL * start : CELL * end])
        legend = Text(f"{SHADES} low to high score, by rank over all sites", style="dim")
        for symbol, words in (("x", "removed"), ("·", "without a score, kept")):
            if any(symbol in strip.plain for strip in strips.values()):
                legend.append(f"; {symbol} {words}")
        for line in legend.wrap(console, max(options.max_width - indent, 20)):
            yield Text.assemble(" " * indent, line)

    def _strips(self) -> dict[str, Text]:
        """The heads of each site, two characters each."""
        ranks, found = _ranks(self.scores), {}
        for name, values in self.scores.items():
            strip, gone = Text(), set(self.removed.get(name, ()))
            for head, value in enumerate(values):
                if head in gone:
                    strip.append("x ", style=REMOVED)
                elif value is None:
                    strip.append("· ", style="dim")
                else:
                    level = min(int(ranks[name][head] * len(SHADES)), len(SHADES) - 1)
                    strip.append(SHADES[level] * CELL, style=KEPT)
            found[name] = strip
        return found


def _numbers(start: int, end: int) -> str:
    """Numbers of heads above a strip: all of them where each has one digit, else every fourth."""
    step = 1 if end <= 10 else EVERY
    return "".join(str(head).ljust(CELL * step) for head in range(start, end, step))


def _ranks(scores: Scores) -> dict[str, list[float]]:
    """Each score's rank among all, from 0 to 1: a few huge ones must not hide the rest."""
    known = np.sort([value for values in scores.values() for value in values if value is not None])
    count = max(len(known) - 1, 1)
    return {
        name: [0.0 if value is None else float(np.searchsorted(known, value)) / count for value in values]
        for name, values in scores.items()
    }
