"""The files of a curve: its JSON, and a picture with the knee marked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnxheadprune.reporting.pictures import save_figure
from onnxheadprune.workflow.curve import Curve

if TYPE_CHECKING:
    from onnxheadprune.reporting.pictures.curve import Against

PICTURE_MARK, JSON_MARK = "onnxheadprune sweep", '"drift_unit"'
"""Marks near the start of the two files of a curve."""


def curve_files(output: Path) -> tuple[Path, Path]:
    """The JSON and the picture of a curve: one is named, the other is beside it."""
    if output.suffix.lower() == ".json":
        return output, output.with_suffix(".png")
    return output.with_suffix(".json"), output


def save_curve(curve: Curve, path: Path, x: Against | None = None) -> None:
    """Draw drift, accuracy and speed.

    Args:
        x: what they are drawn against; None for what ratios are shares of.
    """
    # Matplotlib takes longer to load than many a model.
    from onnxheadprune.reporting.pictures.curve import plot_curve

    save_figure(plot_curve(curve, x), path, PICTURE_MARK)
