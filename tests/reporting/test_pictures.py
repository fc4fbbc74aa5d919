"""Pictures: what is drawn, and that all of it can be read."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from onnxheadprune import (
    GridPoint,
    HeadScores,
    SiteScores,
    UsageError,
    plot_curve,
    plot_heads,
    plot_latency,
    prune,
)
from onnxheadprune.reporting.pictures import save_figure
from onnxheadprune.reporting.pictures.heads import heads_picture
from onnxheadprune.reporting.pictures.style import COLOURS, GREY
from tests.graphs import toys
from tests.pictures import DEUTAN, PROTAN, TRITAN, apart, contrast, faults, texts
from tests.reporting.made_results import LONG, benchmark_result, curve_result

WHAT = f"{LONG}/model_without_a_quarter_of_its_heads_refitted_and_recovered_for_twenty_epochs_then_quantized.onnx"
GRID = [GridPoint(batch, length) for batch in (1, 8, 32, 64) for length in (32, 128, 512)]
DECODE = [
    GridPoint(1, 128),
    GridPoint(8, 128),
    *(GridPoint(b, 1, past) for b in (1, 8) for past in (128, 2048)),
]
AXES = {"heads": "heads removed, % of 72", "parameters": "parameters left", "speedup": "times as fast"}


def words(figure: Figure) -> str:
    return "\n".join(text for text, _, _ in texts(figure))


NAMES = [f"{LONG}/model.onnx", "/elsewhere/model.onnx", WHAT, "$\\alpha$_{x}\x1b[31m.onnx", WHAT]


@pytest.mark.parametrize(
    ("names", "points"),
    [
        (NAMES[:1], GRID[:1]),
        (NAMES[:2], GRID[:3]),
        (NAMES, GRID[:3]),
        pytest.param(NAMES, GRID, marks=pytest.mark.slow),
        (NAMES, DECODE),
    ],
)
def test_latency_is_readable_whatever_was_measured(names: list[str], points: list[GridPoint]) -> None:
    figure = plot_latency(benchmark_result(names, points))
    assert faults(figure) == []
    assert "/data/models" not in words(figure) and "\x1b" not in words(figure)
    (legend,) = figure.legends
    assert len(legend.get_texts()) == len(names) == len({text.get_text() for text in legend.get_texts()})


def test_latency_has_medians_with_their_intervals() -> None:
    figure = plot_latency(benchmark_result(["a.onnx", "b.onnx"], GRID[:2], steep=2))
    (axes,) = figure.axes
    first, second = axes.containers
    assert first.lines[0].get_xdata().tolist() == pytest.approx([4.0, 8.0])
    assert second.lines[0].get_xdata().tolist() == pytest.approx([4 / 1.2, 8 / 1.2])
    (low, high), _ = ([end[0] for end in bar] for bar in first.lines[2][0].get_segments())
    assert (low, high) == pytest.approx((3.8, 4.32))


@pytest.mark.parametrize(("steep", "scale"), [(1.5, "linear"), (3.1, "linear"), (3.5, "log"), (40.0, "log")])
def test_an_axis_is_logarithmic_only_where_the_span_asks_for_it(steep: float, scale: str) -> None:
    figure = plot_latency(benchmark_result(["a.onnx"], GRID[:3], steep=steep))
    assert figure.axes[0].get_xscale() == scale
    assert faults(figure) == [] and len(figure.axes[0].get_xticks()) >= 2
    assert scale == "log" or figure.axes[0].get_xlim()[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("x", AXES)
@pytest.mark.parametrize("labels", [True, False])
def test_curves_are_readable_along_every_axis(x: str, labels: bool) -> None:
    figure = plot_curve(curve_result(labels=labels), x)  # type: ignore[arg-type]
    assert faults(figure) == []
    written = words(figure)
    assert AXES[x] in written and "drift (kl)" in written and "knee: 35 of 72 heads removed" in written
    assert ("accuracy" in written) == labels and "times as fast" in written
    assert "hollow: no measurable difference" in written


@pytest.mark.slow
@pytest.mark.parametrize("x", [None, "operations", "parameters", "speedup"])
def test_a_curve_over_operations_says_so(x: str | None) -> None:
    curve = curve_result(counted="operations")
    figure = plot_curve(curve, x)  # type: ignore[arg-type]
    assert faults(figure) == []
    written = words(figure)
    assert "knee: 49 % of operations removed" in written and "heads" not in written
    if x in (None, "operations"):
        assert "operations removed, % of those of all blocks" in written
        line = figure.axes[0].get_lines()[0]
        assert line.get_xdata().tolist() == pytest.approx([9.71 * step for step in range(8)])
    else:
        assert "0 % of operations removed" in written
    with pytest.raises(UsageError, match="of operations, not of heads"):
        plot_curve(curve, "heads")


@pytest.mark.slow
def test_a_curve_shows_accuracy_and_speed_of_each_cut() -> None:
    curve = curve_result()
    drift, accuracy, speed = plot_curve(curve, "parameters").axes
    lines = [axes.get_lines()[0] for axes in (drift, accuracy, speed)]
    left = [100 * (point.elements or 0) / (curve.elements or 1) for point in curve.points]
    assert all(line.get_xdata().tolist() == pytest.approx(left) for line in lines)
    assert lines[1].get_ydata().tolist() == [point.accuracy for point in curve.points]
    assert lines[2].get_ydata().tolist() == [point.speedup for point in curve.points]


def test_a_curve_refuses_what_was_not_measured() -> None:
    from dataclasses import replace

    bare = replace(curve_result(), elements=None)
    with pytest.raises(UsageError, match="sweep again"):
        plot_curve(bare, "parameters")
    with pytest.raises(UsageError, match="heads, operations, bytes, parameters, speedup"):
        plot_curve(bare, "size")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sites", "heads"),
    [(1, 1), (1, 8), (4, 16), (24, 1), (3, 32), pytest.param(24, 32, marks=pytest.mark.slow)],
)
def test_maps_of_heads_are_readable(sites: int, heads: int) -> None:
    scores = {
        f"{site} model.decoder.layers.{site}.self_attention.with.a.long.name": [
            None if (site + head) % 7 == 0 else 0.001 * 1.1 ** (head + site) for head in range(heads)
        ]
        for site in range(sites)
    }
    removed = {name: range(0, heads, 2) for name in scores}
    unit = "share of the variance of the site's output that is lost"
    assert faults(heads_picture(scores, removed, "large.onnx: " + "very " * 20 + "long", unit)) == []
    assert faults(heads_picture({name: [None] * heads for name in scores}, removed, "named heads")) == []


@pytest.mark.slow
def test_a_map_marks_each_head_that_goes() -> None:
    result = prune(toys.attention(), heads="0:1,3")
    figure = plot_heads(result)
    assert "2 of 4 heads removed" in words(figure) and "crossed: removed" in words(figure)
    crosses = {line.get_xdata()[0] for line in figure.axes[0].get_lines()}
    assert crosses == {1, 3} and faults(figure) == []
    scores = HeadScores("weight", "norm", "m.onnx", (SiteScores(0, "a$b$", (1.0, 2.0, None)),))
    assert "a$b$" in words(plot_heads(scores)) and "grey: removed before" in words(plot_heads(scores))


def test_everybody_tells_the_colours_apart() -> None:
    for one, other in itertools.combinations(COLOURS[:4], 2):
        assert min(apart(one, other, eyes) for eyes in (PROTAN, DEUTAN, TRITAN)) > 12, (one, other)
    assert all(contrast(colour, "white") > 3 for colour in COLOURS[:3]) and contrast(GREY, "white") > 4.5
    assert (
        apart("#d62728", "#2ca02c", DEUTAN)
        < apart("#d62728", "#2ca02c", ((1, 0, 0), (0, 1, 0), (0, 0, 1))) / 2
    )


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_same_results_make_the_same_file(suffix: str, tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.{suffix}"
        save_figure(heads_picture({"site": [1.0, 2.0]}), path)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1] and len(contents[0]) > 5000


@pytest.mark.slow
def test_notebooks_are_given_a_picture() -> None:
    content, size = plot_curve(curve_result())._repr_png_()
    assert content.startswith(b"\x89PNG") and size["width"] > 500


def test_the_checks_can_fail() -> None:
    figure = Figure(figsize=(4, 3))
    axes = figure.subplots()
    axes.set_ylim(0, 1)
    axes.text(0.5, 0.5, "one")
    axes.text(0.5, 0.51, "other")
    axes.text(0.5, 0.2, "tiny", fontsize=6)
    axes.text(0.9, 0.8, "a sentence that runs out of the picture")
    axes.plot([0, 1], [0, 1], label="line")
    figure.legend(loc="center")
    found = faults(figure)
    for complaint in (
        "'one' and 'other' cover",
        "'tiny' is too small",
        "of the picture' is cut off",
        "the legend covers",
    ):
        assert any(complaint in fault for fault in found), complaint
