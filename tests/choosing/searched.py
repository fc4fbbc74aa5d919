"""The cheapest cut of a search space, as tests ask for it."""

from __future__ import annotations

from typing import Any

from onnxheadprune import Sites
from onnxheadprune.choosing.allocate import Limits, Savings
from onnxheadprune.choosing.space import SearchSpace


def removed(
    sites: Sites, paths: Any, wanted: int, limits: Limits, *, each: bool = False
) -> dict[int, frozenset[int]]:
    """The heads of the cheapest cut of so many, or of that with so many left of each site, from the paths of all."""
    within = {site.index: limits.options(site, paths[site.index])[1:] for site in sites}
    total = sum(site.num_heads for site in sites)
    savings = {site.index: Savings.evenly(site.num_heads, 1) for site in sites}
    space = SearchSpace(sites.sites, within, savings, total, "", "heads", total, 1, limits)
    found = space.keeping(wanted) if each else space.removing(wanted)
    return {index: frozenset(heads) for index, heads in found.heads.items()}
