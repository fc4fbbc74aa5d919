"""Scores without data: by the weights alone, and random ones, to compare others with."""

from __future__ import annotations

import numpy as np

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.contexts import projection_matrix
from onnxheadprune.choosing.scoring.method import Scored, Subject, shares, summed
from onnxheadprune.model.tensors import Floats


def weight(subject: Subject) -> Scored:
    """|W_h|² / |W|² of the rows of a unit: magnitude pruning, blind to activations (Han et al. 2015)."""
    return Scored({site.index: weight_scores(site) for site in subject.sites})


def weight_scores(site: Site) -> Floats:
    """Share of a unit's rows in the energy of the layer that sums units up: |W_o[h]|² / |W_o|²."""
    return shares(summed(site, [np.square(projection_matrix(item)).sum(axis=1) for item in site.projections]))


def random(subject: Subject) -> Scored:
    """A fixed random order of each site's units."""
    return Scored(
        {
            site.index: shares(np.random.default_rng(site.index).random(site.num_units))
            for site in subject.sites
        }
    )
