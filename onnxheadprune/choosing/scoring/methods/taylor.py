"""Scores by the slope of the likelihood."""

from __future__ import annotations

from onnxheadprune.choosing.scoring.method import Scored, ScoringMethod, Subject
from onnxheadprune.choosing.scoring.sensitivity import sensitivity


class Taylor(ScoringMethod):
    """Absolute first-order change of the log-likelihood (Michel et al. 2019; Molchanov et al. 2019)."""

    NAME = "taylor"
    ORDER = 9
    GRADIENT = True

    def __call__(self, subject: Subject) -> Scored:
        """Return the change that is estimated for each unit."""
        return sensitivity(subject, curvature=False)
