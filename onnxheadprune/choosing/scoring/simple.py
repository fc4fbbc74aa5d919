"""Scores from the weights alone, and from one pass over the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.contexts import projection_matrix
from onnxheadprune.choosing.activations.moments import Moments

Scores = npt.NDArray[np.float64]


def weight_scores(site: Site) -> Scores:
    """Share of a unit's rows in the energy of the map that sums units up: |W_o[h]|² / |W_o|².

    Magnitude pruning (Han et al. 2015) with heads, or neurons, as groups. It needs no data and knows nothing of what
    flows through the weights; the other methods are better wherever there is data.
    """
    total = np.zeros(site.num_units)
    for projection in site.projections:
        energy = np.square(projection_matrix(projection)).sum(axis=1)
        total += [energy[list(channels)].sum() for channels in projection.channels]
    return _shares(total)


def activation_scores(site: Site, moments: Sequence[Moments]) -> Scores:
    """Mean of |W_ij| |x_i| over the entries of a unit, as a share of the site's (Wanda, Sun et al. 2024).

    |x_i| is the norm of a context channel over the calibration data.
    """
    total = np.zeros(site.num_units)
    for projection, moment in zip(site.projections, moments, strict=True):
        norms = np.sqrt(np.diag(moment.gram) / (moment.total or 1.0))
        each = np.abs(projection_matrix(projection)).sum(axis=1) * norms
        total += [each[list(channels)].sum() for channels in projection.channels]
    return _shares(total)


def fluctuation_scores(site: Site, moments: Sequence[Moments]) -> Scores:
    """Var(x_i) |W_i|² over the channels of a unit, as a share of the site's (FLAP, An et al. 2024).

    What a channel contributes on average, the bias can take over; only its fluctuation is lost.
    """
    total = np.zeros(site.num_units)
    for projection, moment in zip(site.projections, moments, strict=True):
        variance = np.diag(moment.centred().covariance)
        each = variance * np.square(projection_matrix(projection)).sum(axis=1)
        total += [each[list(channels)].sum() for channels in projection.channels]
    return _shares(total)


def _shares(values: Scores) -> Scores:
    """As shares of the site, so that sites of different scale compare."""
    total = values.sum()
    shares: Scores = values / total if total > 0 else np.full(len(values), 1 / max(len(values), 1))
    return shares
