"""Search spaces with known costs."""

from __future__ import annotations

import numpy as np

from onnxheadprune.attention.sites.site import Site, outermost
from onnxheadprune.choosing.scoring.moves import Step
from onnxheadprune.choosing.space import Savings, SearchSpace


def search_space(rng: np.random.Generator, *, nested: bool = False) -> SearchSpace:
    """Three sites whose paths have random costs; the first two may lie in a layer with something else."""
    each = {0: 3.0, 1: 1.0, 2: 5.0, 3: 25.0}
    sites = [_site(index, units) for index, units in enumerate((4, 6, 3))]
    sites[2:2] = [_site(3, 1, tuple(sites[:2]))] if nested else []
    paths: dict[int, list[Step]] = {}
    for site in sites:
        costs = np.cumsum(rng.uniform(0.1, 1 + 4 * bool(site.parts), site.num_units))
        paths[site.index] = [Step(frozenset(range(n + 1)), float(costs[n])) for n in range(site.num_units)]
    savings = {site.index: Savings.evenly(site.num_units, each[site.index]) for site in sites}
    whole = sum(savings[site.index].of(site.num_units) for site in outermost(sites))
    return SearchSpace(tuple(sites), paths, savings, whole, "test")


def _site(index: int, units: int, parts: tuple[Site, ...] = ()) -> Site:
    return Site(
        index=index,
        name="",
        num_units=units,
        original_num_units=units,
        groups=(),
        projections=(),
        cores=(),
        parts=parts,
    )
