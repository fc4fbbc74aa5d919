"""Scores by what the router lets experts contribute."""

from __future__ import annotations

from onnxheadprune.choosing.scoring.experts import expert_scores
from onnxheadprune.choosing.scoring.method import Scored, ScoringMethod, Subject


class Reap(ScoringMethod):
    """The mean norm of an expert's output times its router weight (2510.13999).

    The mean is over the tokens that it is chosen for; the weights of a token's experts sum up to 1.
    """

    NAME = "reap"
    ORDER = 2
    UNIT = "share of the site's activity, weighted by the router"
    READS = ("router",)
    DEFAULT = True

    def __call__(self, subject: Subject) -> Scored:
        """Return the share of each expert in the weighted activity of its mixture."""
        return expert_scores(subject, self.NAME, lambda tally: tally.per_token(tally.weighted))
