"""The curve of a sweep: a table, and a picture with the knee marked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from onnxheadprune.benchmarking import SpeedUp
from onnxheadprune.benchmarking.statistics import NO_DIFFERENCE
from onnxheadprune.cli.report.figure import check_picture, save_figure
from onnxheadprune.cli.report.layout import heading, row, table
from onnxheadprune.workflow.sweep import Curve

PICTURE_MARK, JSON_MARK = "onnxheadprune sweep", '"drift_unit"'
"""What the two files of a curve hold near their start."""


def curve_files(output: Path) -> tuple[Path, Path]:
    """The JSON and the picture of a curve: one is named, the other is beside it."""
    if output.suffix.lower() == ".json":
        return output, output.with_suffix(".png")
    return output.with_suffix(".json"), output


def curve_rows(curve: Curve) -> Iterator[RenderableType]:
    """One line per cut."""
    yield heading(f"{curve.model}: what cuts cost")
    yield ""
    speed = next((point.speed for point in curve.points if point.speed is not None), None)
    sizes = [] if speed is None else [point.label for point, _ in speed.cells]
    columns = ("asked", "removed", "drift", "accuracy", "speed", *(sizes if len(sizes) > 1 else []))
    made = table(*columns, "", numeric=columns)
    for position, point in enumerate(curve.points):
        made.add_row(
            f"{point.ratio:.0%}",
            f"{point.removed} of {curve.heads}",
            f"{point.drift:.3g}",
            "" if point.accuracy is None else f"{point.accuracy:.2%}",
            "" if point.speedup is None else f"{point.speedup:.2f}x",
            *(_cells(point.speed, len(sizes)) if len(sizes) > 1 else []),
            "<- knee" if position == curve.knee else "",
        )
    yield made
    yield ""
    yield row("drift", f"{curve.unit} on held-out data")
    if speed is not None:
        where = f"{'; '.join(sizes)}, on {speed.provider.label}, without refitted weights"
        yield row(
            "speed", f"the least over {where}; what is no measurable difference (=) counts as 1 at most"
        )


def _cells(speed: SpeedUp | None, count: int) -> list[str]:
    """One cut at each size; "=" where no difference was measurable."""
    if speed is None:
        return [""] * count
    return [
        ("= " if item.verdict == NO_DIFFERENCE else "") + f"{item.speedup:.2f}x" for _, item in speed.cells
    ]


def save_curve(curve: Curve, path: Path) -> None:
    """Draws drift, accuracy and speed against the share of heads removed.

    Raises:
        UsageError: if the file is no .png, .svg or .pdf, or cannot be written.
    """
    check_picture(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes: Any = figure.subplots()
    shares = [100 * point.removed / max(curve.heads, 1) for point in curve.points]
    axes.plot(
        shares, [point.drift for point in curve.points], "o-", color="tab:red", label=f"drift ({curve.unit})"
    )
    axes.set_xlabel("heads removed, % of all")
    axes.set_ylabel(f"drift ({curve.unit})")
    axes.grid(alpha=0.3)
    if curve.knee is not None:
        at = curve.points[curve.knee]
        axes.axvline(shares[curve.knee], color="grey", linestyle=":")
        axes.annotate(
            f"knee: {at.removed} of {curve.heads} heads",
            (shares[curve.knee], at.drift),
            xytext=(-6, 16),
            ha="right",
            textcoords="offset points",
            fontsize=8,
        )
    lines = axes.get_lines()[:1]
    second = axes.twinx()
    if all(point.accuracy is not None for point in curve.points):
        lines += second.plot(
            shares, [point.accuracy for point in curve.points], "s--", color="tab:green", label="accuracy"
        )
        second.set_ylabel("accuracy")
    elif all(point.speedup is not None for point in curve.points):
        lines += second.plot(
            shares, [point.speedup for point in curve.points], "^--", color="tab:blue", label="times as fast"
        )
        second.set_ylabel("speed, times the original's")
    else:
        second.set_axis_off()
    figure.legend(handles=lines, loc="outside lower center", ncols=2, fontsize=8)
    axes.set_title(Path(curve.model).name, fontsize=10)
    save_figure(figure, path, PICTURE_MARK)
