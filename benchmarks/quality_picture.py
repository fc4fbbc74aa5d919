"""The plot of quality over minutes and sentences, from the tables of docs/benchmarks.md.

    python benchmarks/quality_picture.py [-o docs/pictures/quality.svg]

The figures are those that quality.py measured: what the plot shows stands in the document. The background
is transparent: every colour is read on white and on a dark page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator, PercentFormatter
from readme_picture import PALE, ROOT, SPEED, STAYS

from onnxheadprune.reporting.pictures.style import STYLE, Picture

PICTURE = ROOT / "docs" / "pictures" / "quality.svg"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
NUMBER = re.compile(r"[\d,]*\.?\d+")
WAYS = ("chosen and refitted", "trained after that for 10 epochs")
LARGE = 16_384
CUTS = {
    "25 %": "a quarter of the heads",
    "50 %": "half of the heads",
    "1.4x": "1.4x fewer operations",
    "2x": "half of the operations",
}
COLORS = {"25 %": STAYS, "50 %": SPEED, "1.4x": STAYS, "2x": SPEED}


class Call(NamedTuple):
    """A call of `prune` that was measured.

    Attributes:
        cut: of `CUTS`.
        overlap: ten nearest neighbors that stay, from 0 to 1.
        minutes: of the whole call; None where they were not noted.
    """

    cut: str
    sentences: int
    overlap: float
    minutes: float | None


def calls() -> Iterator[Call]:
    """Yield the measured calls in the tables of the document."""
    heads, units = _section("What it reaches"), _section("Units under one budget")
    timed = [
        (way, cut, quality, clocks) for way, cut, quality, clocks, _ in _rows(heads, "sentences, `--time`")
    ]
    joint = {"29 %": "1.4x", "50 %": "2x"}
    timed += [
        (way, joint[cut], quality, clocks)
        for cut, way, quality, clocks, _ in _rows(heads, "operations fewer")
    ]
    for way, cut, quality, clocks in timed:
        yield Call(cut, int(way.split(", ")[0].replace(",", "")), _overlap(quality), _seconds(clocks) / 60)
    for way, cut, quality, seconds in _rows(heads, "way"):
        if way in WAYS:
            yield Call(cut, 512, _overlap(quality), _seconds(seconds) / 60)
    for way, mild, strong in _rows(units, "removed"):
        if way == "heads and neurons, trained for 10 epochs":
            yield from (
                Call(cut, 512, _overlap(text), None) for cut, text in (("1.4x", mild), ("2x", strong))
            )


def described(found: list[Call]) -> str:
    """The figures as text, which the file of the plot holds."""
    times = ("" if call.minutes is None else f" in {call.minutes:.1f} minutes" for call in found)
    return "; ".join(
        f"{CUTS[call.cut]}, {call.sentences:,} sentences{time}: {call.overlap:.1%}"
        for call, time in zip(found, times, strict=True)
    )


def _section(title: str) -> str:
    return DOCUMENT.read_text(encoding="utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]


def _rows(text: str, table: str) -> list[list[str]]:
    """The rows of the table whose first column has this title."""
    lines = text.partition(f"\n| {table} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _overlap(quality: str) -> float:
    return float(NUMBER.findall(quality)[1])


def _seconds(text: str) -> float:
    return float(NUMBER.findall(text)[0].replace(",", ""))


def draw(found: list[Call]) -> Picture:
    """Nearest neighbors that stay over the minutes of a call: heads alone, and heads with neurons."""
    with mpl.rc_context({**STYLE, **PALE}):
        figure = Picture(figsize=(10.4, 3.6), layout="constrained")
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
        panels = figure.subplots(1, 2, width_ratios=(1, 1), sharex=True, sharey=True)
        for axes, title, cuts in zip(
            panels, ("heads", "heads and neurons"), (("25 %", "50 %"), ("1.4x", "2x")), strict=True
        ):
            axes.set_title(f"{title} removed")
            axes.set_xlabel("minutes of the whole call")
            for cut in cuts:
                _curve(axes, [call for call in found if call.cut == cut])
        panels[0].set_ylabel("ten nearest neighbors kept")
        panels[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        panels[0].yaxis.set_major_locator(MultipleLocator(0.1))
        panels[0].set(xlim=(0, 14), ylim=(0.6, 0.92))
        panels[0].xaxis.set_major_locator(MultipleLocator(2))
    return figure


def _curve(axes: Axes, own: list[Call]) -> None:
    """A cut: hollow dots of few sentences, or a dashed line where their minutes are not known; full ones of many."""
    color = COLORS[own[0].cut]
    few = sorted((call.minutes or 0, call.overlap) for call in own if call.sentences != LARGE)
    (many,) = ((call.minutes or 0, call.overlap) for call in own if call.sentences == LARGE)
    if few[0][0]:
        axes.plot(*zip(*few, strict=True), "o-", color=color, markerfacecolor="none", markeredgewidth=1.6)
        axes.plot(*zip(few[-1], many, strict=True), ":", color=color)
    else:
        axes.axhline(few[0][1], xmax=0.64, color=color, linestyle="--")
    axes.plot(*many, "o", color=color)
    beside = {"textcoords": "offset points", "va": "center", "fontsize": 10}
    start = (few[0][0] or 0.2, few[0][1])
    axes.annotate(f"{LARGE:,} sentences", many, (8, 0), **beside)
    axes.annotate("512 sentences" if few[0][0] else "512 sentences, ten epochs", start, (0, -11), **beside)
    top = max(height for _, height in [*few, many]) if few[0][0] else start[1]
    axes.annotate(CUTS[own[0].cut], (start[0], top), (0, 11), color=color, **beside)


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default=PICTURE, show_default=False)
def main(output: Path) -> None:
    """Draw the figures of the document."""
    title = "Nearest neighbors that stay, over the minutes of a call and the sentences it learns from"
    with mpl.rc_context({**STYLE, **PALE}):
        found = list(calls())
        draw(found).savefig(output, metadata={"Date": None, "Title": title, "Description": described(found)})


if __name__ == "__main__":
    main()
