"""Pictures: what is drawn, and that all of it can be read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from onnxheadprune import (
    GridPoint,
    UsageError,
    plot_curve,
    plot_latency,
)
from tests.benchmarking.made_results import benchmark_result
from tests.pictures import faults, texts
from tests.reporting.made_curves import LONG, curve_result

WHAT = f"{LONG}/model_without_a_quarter_of_its_heads_refitted_and_recovered_for_twenty_epochs_then_quantized.onnx"
GRID = [GridPoint(batch, length) for batch in (1, 8, 32, 64) for length in (32, 128, 512)]
DECODE = [
    GridPoint(1, 128),
    GridPoint(8, 128),
    *(GridPoint(b, 1, past) for b in (1, 8) for past in (128, 2048)),
]


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


@pytest.mark.parametrize(("steep", "scale"), [(1.5, "linear"), (3.1, "linear"), (3.5, "log"), (40.0, "log")])
def test_an_axis_is_logarithmic_only_where_the_span_asks_for_it(steep: float, scale: str) -> None:
    figure = plot_latency(benchmark_result(["a.onnx"], GRID[:3], steep=steep))
    assert figure.axes[0].get_xscale() == scale
    assert faults(figure) == [] and len(figure.axes[0].get_xticks()) >= 2
    assert scale == "log" or figure.axes[0].get_xlim()[0] == 0


def test_a_curve_refuses_what_was_not_measured() -> None:
    bare = replace(curve_result(), elements=None)
    with pytest.raises(UsageError, match="sweep again"):
        plot_curve(bare, "parameters")
    with pytest.raises(UsageError, match="heads, operations, bytes, parameters, speedup"):
        plot_curve(bare, "size")  # type: ignore[arg-type]


def test_the_checks_can_fail() -> None:
    figure = Figure(figsize=(4, 3))
    axes = figure.subplots()
    axes.set_ylim(0, 1)
    axes.text(0.5, 0.5, "one")
    axes.text(0.5, 0.51, "other")
    axes.text(0.5, 0.2, "tiny", fontsize=6)
    axes.plot([0, 1], [0, 1], label="line")
    figure.legend(loc="center")
    found = faults(figure)
    for complaint in (
        "'one' and 'other' cover",
        "'tiny' is too small",
        "the legend covers",
    ):
        assert any(complaint in fault for fault in found), complaint
