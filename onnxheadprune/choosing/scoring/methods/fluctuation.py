"""Scores by the variance of what units contribute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.contexts import projection_matrix
from onnxheadprune.choosing.activations.moments import Moments
from onnxheadprune.choosing.scoring.method import (
    Scored,
    ScoringMethod,
    Subject,
    from_contexts,
    shares,
    summed,
)
from onnxheadprune.model.tensors import Floats


class Fluctuation(ScoringMethod):
    """Sum of Var(x_i) |W_i|² over the channels of a unit (FLAP, An et al. 2024).

    The bias can replace the mean of a channel; only its fluctuation is lost.
    """

    NAME = "fluctuation"
    ORDER = 5
    UNIT = "share of the site's variance"

    def __call__(self, subject: Subject) -> Scored:
        """Return the share of each unit in the variance of its site."""
        return Scored(from_contexts(subject, fluctuation_scores))


def fluctuation_scores(site: Site, moments: Sequence[Moments]) -> Floats:
    """Sum of Var(x_i) |W_i|² over the channels of each unit, as a share of the site's."""
    each = [
        np.diag(moment.centred().covariance) * np.square(projection_matrix(projection)).sum(axis=1)
        for projection, moment in zip(site.projections, moments, strict=True)
    ]
    return shares(summed(site, each))
