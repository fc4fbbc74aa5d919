"""Scores by the curvature of the drift."""

from __future__ import annotations

from onnxheadprune.choosing.scoring.method import Scored, ScoringMethod, Subject
from onnxheadprune.choosing.scoring.sensitivity import sensitivity


class Fisher(ScoringMethod):
    """The drift without a unit to second order, by the Fisher information of its mask (Kwon et al. 2022)."""

    NAME = "fisher"
    ORDER = 8
    GRADIENT = True

    def __call__(self, subject: Subject) -> Scored:
        """Return the drift that is estimated for each unit."""
        return sensitivity(subject, curvature=True)
