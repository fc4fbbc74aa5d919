"""The README's picture: one real cut of the digits ViT, head by head, and what cuts of every size cost and bring.

    python benchmarks/readme_picture.py [--budget 10] [-o docs/pictures/readme.svg]
    python benchmarks/readme_picture.py --draw          # from the figures of an earlier run

Heads are chosen and weights refitted on 256 calibration images (`prune --ratio`); accuracy is that of 450 images that
neither training nor pruning saw, speed that of `bench` at a batch of 64 on one thread. The figures are written beside
the picture as JSON, and printed. The background is transparent: every colour is read on white and on a dark page.
"""

from __future__ import annotations

import json
import platform
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
import onnxruntime
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, MultipleLocator

import onnxheadprune as ohp
from onnxheadprune.reporting.pictures.style import STYLE, Picture

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_models"
MODEL = SAMPLES / "digits_vit.onnx"
PICTURE = ROOT / "docs" / "pictures" / "readme.svg"
RATIOS = tuple(step / 8 for step in range(7))
SHOWN = 0.5
"""The share of heads whose removal is drawn head by head."""
BATCH = 64
INK, STAYS, GOES, ACCURACY, SPEED = "#767c82", "#2a7fba", "#9aa1a8", "#1f9a72", "#d1662a"
"""Colours that are read on white and on black alike."""
PALE = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "savefig.transparent": True,
}


def measured(budget: float) -> dict[str, Any]:
    """The figures: a row per cut.

    Args:
        budget: seconds that latency is measured for, for all models together.
    """
    data, test = str(SAMPLES / "digits_calibration.npz"), str(SAMPLES / "digits_test.npz")
    whole = sum(site.num_heads for site in ohp.inspect(MODEL))
    with tempfile.TemporaryDirectory() as folder:
        results = []
        for ratio in RATIOS[1:]:
            path = Path(folder, f"{ratio}.onnx")
            results.append(ohp.prune(MODEL, path, ratio=ratio, data=data, provider="cpu"))
        paths = [Path(result.output or "") for result in results]
        judged = [ohp.validate(MODEL, path, data=test, provider="cpu") for path in paths]
        # One thread: where others are at work too, two of them wait for each other.
        settings = {"provider": "cpu", "batch": [BATCH], "time_budget": budget, "memory": False, "threads": 1}
        timed = ohp.bench(MODEL, *paths, **settings)
    before, first = results[0].before.elements, judged[0].accuracy
    assert first is not None
    rows = [
        {
            "heads_removed": 0,
            "elements": before,
            "accuracy": first.original,
            "times_as_fast": 1.0,
            "interval": [1.0, 1.0],
        }
    ]
    for index, (result, verdict) in enumerate(zip(results, judged, strict=True), 1):
        compared = timed.cells_of(index)[0].comparison
        assert compared is not None and verdict.accuracy is not None and verdict.passed
        rows.append(
            {
                "heads_removed": sum(len(cut.removed) for cut in result.plan.cuts),
                "elements": result.after.elements,
                "accuracy": verdict.accuracy.pruned,
                "times_as_fast": compared.speedup,
                "interval": [1 / compared.ratio.high, 1 / compared.ratio.low],
                "heads": {str(cut.index): list(cut.removed) for cut in result.plan.cuts},
            }
        )
    return {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}",
        "heads": whole,
        "heads_per_site": [site.num_heads for site in ohp.inspect(MODEL)],
        "images": first.count,
        "shown": RATIOS.index(SHOWN),
        "rows": rows,
    }


def draw(figures: dict[str, Any]) -> Picture:
    """The picture of these figures."""
    rows, shown = figures["rows"], figures["rows"][figures["shown"]]
    whole = rows[0]["elements"]
    with mpl.rc_context({**STYLE, **PALE}):
        figure = Picture(figsize=(10.4, 3.3), layout="constrained")
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
        heads, accuracy, speed = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
        _heads(heads, figures["heads_per_site"], shown["heads"])
        heads.set_title(f"{shown['heads_removed']} of {figures['heads']} heads removed")
        left = [100 * row["elements"] / whole for row in rows]
        _curve(accuracy, left, [row["accuracy"] for row in rows], ACCURACY, figures["shown"])
        accuracy.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
        accuracy.set_title(f"accuracy on {figures['images']} unseen images")
        lows, highs = zip(*(row["interval"] for row in rows), strict=True)
        _curve(speed, left, [row["times_as_fast"] for row in rows], SPEED, figures["shown"])
        speed.vlines(left, lows, highs, color=SPEED, linewidth=1.6)
        speed.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2f}x"))
        speed.set_title(f"speed at batch {BATCH}, one thread")
        for axes in (accuracy, speed):
            axes.set_xlabel("weights left, %")
            axes.xaxis.set_major_locator(MultipleLocator(10))
            axes.invert_xaxis()
    return figure


def _heads(axes: Axes, sizes: list[int], removed: dict[str, list[int]]) -> None:
    """A square per head: full where it stays, hollow with a cross where it is gone."""
    for site, size in enumerate(sizes):
        for head in range(size):
            gone = head in removed.get(str(site), ())
            square = FancyBboxPatch(
                (head - 0.36, site - 0.36),
                0.72,
                0.72,
                boxstyle="round,pad=0,rounding_size=0.14",
                facecolor="none" if gone else STAYS,
                edgecolor=GOES if gone else STAYS,
                linewidth=1.3,
            )
            axes.add_patch(square)
            if gone:
                axes.plot(head, site, "x", color=GOES, markersize=6, markeredgewidth=1.5)
    axes.set(xlim=(-0.6, max(sizes) - 0.4), ylim=(len(sizes) - 0.4, -0.6), aspect="equal")
    axes.set_yticks(range(len(sizes)), [f"layer {site}" for site in range(len(sizes))])
    axes.set_xticks(range(max(sizes)))
    axes.set_xlabel("head")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _curve(axes: Axes, xs: list[float], ys: list[float], colour: str, shown: int) -> None:
    """A line with a dot per cut, and a ring around the one that is drawn head by head."""
    axes.plot(xs, ys, "o-", color=colour, markersize=5)
    axes.plot(
        xs[shown], ys[shown], "o", color="none", markeredgecolor=INK, markersize=12, markeredgewidth=1.6
    )
    axes.margins(x=0.06, y=0.16)


@click.command()
@click.option("--budget", default=10.0, show_default=True, help="Seconds of measuring latency.")
@click.option("--draw", "only_draw", is_flag=True, help="Draw the figures of an earlier run again.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=PICTURE, show_default=False)
@click.option("--figures-only", is_flag=True, help="Print the figures and write nothing.")
def main(budget: float, only_draw: bool, output: Path, figures_only: bool) -> None:
    """Measure, draw, and print the figures as one JSON document."""
    beside = output.with_suffix(".json")
    figures = json.loads(beside.read_text(encoding="utf-8")) if only_draw else measured(budget)
    if not figures_only:
        output.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        title = (
            "Heads removed from a vision transformer; accuracy and speed against the weights that are left"
        )
        with mpl.rc_context({**STYLE, **PALE}):
            draw(figures).savefig(output, metadata={"Date": None, "Title": title})
    click.echo(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
