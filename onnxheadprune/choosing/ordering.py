"""The scores that a choice goes by: given, or made on its data."""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune.attention.analysis import Analysis
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.evidence import Evidence
from onnxheadprune.choosing.scoring.by_method import Working, scores_of
from onnxheadprune.choosing.scoring.scores import HeadScores
from onnxheadprune.choosing.wishes import Requirements
from onnxheadprune.runtime.progress import Progress, silent


def scores_for(
    analysis: Analysis,
    sites: Sequence[Site],
    requirements: Requirements,
    evidence: Evidence | None,
    left: dict[str, str],
    progress: Progress = silent,
) -> HeadScores | None:
    """Scores of the units of some sites, None where cuts are measured.

    Args:
        analysis: of the model.
        sites: whose units may go.
        requirements: what the choice goes by.
        evidence: what a method is tried on.
        left: gets the reason for each site that a method cannot score on it, by label.
        progress: told what is being done.

    Raises:
        UsageError: if the method needs data and there is none.
        RefusedError: if the method cannot see into a site.
    """
    method = requirements.method
    if method is None:
        return requirements.scores
    return scores_of(analysis.name, analysis.view, sites, method, evidence, Working(progress=progress), left)
