"""Random scores, to compare others with."""

from __future__ import annotations

import numpy as np

from onnxheadprune.choosing.scoring.method import Scored, Subject, shares


def random(subject: Subject) -> Scored:
    """A fixed random order of each site's units."""
    return Scored(
        {
            site.index: shares(np.random.default_rng(site.index).random(site.num_units))
            for site in subject.sites
        }
    )
