"""The curve of a sweep: a table, and a picture with the knee marked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType

from onnxheadprune.benchmarking.result import SpeedUp
from onnxheadprune.benchmarking.statistics import NO_DIFFERENCE
from onnxheadprune.model.spelling import accuracy as spelled
from onnxheadprune.reporting.figure import save_figure
from onnxheadprune.reporting.layout import heading, row, table
from onnxheadprune.workflow.curve import Curve, gone_words, recovery_words

if TYPE_CHECKING:
    from onnxheadprune.reporting.pictures.curve import Against

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
    by_operations = curve.counted == "operations"
    saved = ("operations",) if by_operations else ()
    columns = ("asked", *saved, "removed", "drift", "accuracy", "speed", *(sizes if len(sizes) > 1 else []))
    made = table(*columns, "", numeric=columns)
    for position, point in enumerate(curve.points):
        made.add_row(
            f"{point.ratio:.0%}",
            *([f"-{curve.share(point):.1%}"] if by_operations else []),
            gone_words(curve.counted, curve.heads, point.removed, point.units),
            f"{point.drift:.3g}",
            "" if point.accuracy is None else spelled(point.accuracy),
            "" if point.speedup is None else f"{point.speedup:.2f}x",
            *(_cells(point.speed, len(sizes)) if len(sizes) > 1 else []),
            "<- knee" if position == curve.knee else "",
        )
    yield made
    yield ""
    if by_operations:
        yield row("asked", "shares of the operations of all attention and feed-forward blocks")
    yield row("drift", f"{curve.unit} on {curve.measured_on}")
    if any(point.accuracy is not None for point in curve.points):
        yield row("accuracy", f"on {curve.measured_on}")
    recovered = recovery_words(curve.to_dict()["points"])
    if recovered is not None:
        yield row("recovered", recovered)
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


def save_curve(curve: Curve, path: Path, x: Against | None = None) -> None:
    """Draws drift, accuracy and speed.

    Args:
        curve: what a sweep found.
        path: a .png, .svg or .pdf file.
        x: what they are drawn against; None for what ratios are shares of.

    Raises:
        UsageError: if the file is none of these or cannot be written, or `x` was not measured.
    """
    # Matplotlib takes longer to load than many a model.
    from onnxheadprune.reporting.pictures.curve import plot_curve

    save_figure(plot_curve(curve, x), path, PICTURE_MARK)
