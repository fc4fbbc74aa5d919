"""Scores by the size of what units contribute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.contexts import projection_matrix
from onnxheadprune.choosing.activations.moments import Moments
from onnxheadprune.choosing.scoring.experts import expert_scores
from onnxheadprune.choosing.scoring.method import (
    Scored,
    ScoringMethod,
    Subject,
    from_contexts,
    shares,
    summed,
)
from onnxheadprune.model.tensors import Floats


class Activation(ScoringMethod):
    """Sum of |W_ij| rms(x_i) over the weights of a unit (Wanda, Sun et al. 2024).

    Of an expert it is the mean norm of its output for the tokens that it is chosen for (2606.15716).
    """

    NAME = "activation"
    ORDER = 4
    UNIT = "share of the site's activity"
    READS = ("contexts", "router")

    def __call__(self, subject: Subject) -> Scored:
        """Return the share of each unit in the activity of its site."""
        contexts = from_contexts(subject, _of)
        experts = expert_scores(subject, self.NAME, lambda tally: tally.per_token(tally.norms))
        return experts._replace(values={**contexts, **experts.values})


def _of(site: Site, moments: Sequence[Moments]) -> Floats:
    each = [
        np.abs(projection_matrix(projection)).sum(axis=1)
        * np.sqrt(np.diag(moment.gram) / (moment.total or 1.0))
        for projection, moment in zip(site.projections, moments, strict=True)
    ]
    return shares(summed(site, each))
