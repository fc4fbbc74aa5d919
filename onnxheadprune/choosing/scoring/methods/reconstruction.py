"""Scores by the error that remains after the best refit of the others."""

from __future__ import annotations

from onnxheadprune.choosing.scoring.method import Scored, ScoringMethod, Subject, from_contexts
from onnxheadprune.choosing.scoring.reconstruction import reconstruction_scores


class Reconstruction(ScoringMethod):
    """Output variance lost with a unit after the best refit of the others (OBS, Hassibi & Stork 1993)."""

    NAME = "reconstruction"
    ORDER = 6
    UNIT = "share of the site's variance lost after refit"
    DATA = "full"
    DEFAULT = True

    def __call__(self, subject: Subject) -> Scored:
        """Return the loss of each site's output with each unit, in the order of the cheapest path."""
        return Scored(from_contexts(subject, reconstruction_scores))
