"""Scores by how often a router chooses experts."""

from __future__ import annotations

from onnxheadprune.choosing.scoring.experts import expert_scores
from onnxheadprune.choosing.scoring.method import Scored, ScoringMethod, Subject


class Frequency(ScoringMethod):
    """The number of tokens that an expert is chosen for."""

    NAME = "frequency"
    ORDER = 3
    UNIT = "share of the site's choices"
    READS = ("router",)

    def __call__(self, subject: Subject) -> Scored:
        """Return the share of each expert in the choices of its mixture."""
        return expert_scores(subject, self.NAME, lambda tally: tally.tokens, choices_alone=True)
