"""The evidence for scores: data, random inputs, or weights alone."""

from __future__ import annotations

from dataclasses import dataclass

from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.drift import Measure
from onnxheadprune.runtime import Provider


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
