"""Random scores, to compare others with."""

from __future__ import annotations

import numpy as np

from onnxheadprune.choosing.scoring.method import Scored, ScoringMethod, Subject


class Random(ScoringMethod):
    """A fixed random order of each site's units."""

    NAME = "random"
    ORDER = 99
    UNIT = "share of the site by chance"
    READS = ("contexts", "router")
    DATA = ""

    def __call__(self, subject: Subject) -> Scored:
        """Return random shares."""
        drawn = {
            site.index: np.random.default_rng(site.index).random(site.num_units) for site in subject.sites
        }
        return Scored({index: each / each.sum() for index, each in drawn.items()})
