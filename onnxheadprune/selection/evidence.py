"""The evidence for scores: data, random inputs, or weights alone."""

from __future__ import annotations

from dataclasses import dataclass

from onnxheadprune.runtime import Provider
from onnxheadprune.selection.activations.data import Calibration
from onnxheadprune.selection.activations.drift import Measure


@dataclass(frozen=True, eq=False)
class Evidence:
    """Data, where it runs, and what counts as a difference.

    Attributes:
        data: calibration data.
        provider: where to run.
        effect: the measure of drift; None goes by the kind of output.
    """

    data: Calibration
    provider: Provider
    effect: Measure | None = None
