"""Allocation: the number of heads that each site loses, at the least total cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxheadprune.attention.sites.attention_site import AttentionSite
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.scoring.moves import Heads, Step
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.display import one_line
from onnxheadprune.settings.cutting import MULTIPLES, Kind, Selecting
from onnxheadprune.settings.setting import check

Paths = Mapping[int, Sequence[Step]]
Choice = dict[int, Heads]


@one_line()
@dataclass(frozen=True)
class Limits:
    """The limits that a cut must respect."""

    min_heads: int = 1  # heads that every site keeps at least
    # each site keeps a multiple of this number of units: {"heads": 1, "neurons": 8, "experts": 1} unless
    # specified otherwise
    multiple_of: Mapping[Kind, int] = field(default_factory=dict)
    uniform: bool = False  # every site loses the same share of its heads
    # KV heads are removed with all their query heads, if a site has several: so both numbers determine each
    # other
    whole_groups: bool = False

    def __post_init__(self) -> None:
        check(Selecting, min_heads=self.min_heads, multiple_of=self.multiple_of)

    def multiple(self, units: str) -> int:
        """Return the number of which a site keeps a multiple of units of a kind."""
        limits = {**MULTIPLES, **self.multiple_of}
        return next((count for kind, count in limits.items() if kind == units), 1)

    def options(self, site: Site, path: Sequence[Step]) -> list[Step]:
        """Return the steps of a path that respect the limits, first the one that removes nothing."""
        return [step for step in (Step(frozenset(), 0.0), *path) if self._allow(site, step.removed)]

    def _allow(self, site: Site, removed: Heads) -> bool:
        left = site.num_units - len(removed)
        return not removed or (
            left >= max(self.min_heads, 0)
            and left % self.multiple(site.UNITS) == 0
            and (not self.whole_groups or _takes_whole_groups(site, removed))
        )


def _takes_whole_groups(site: Site, removed: Heads) -> bool:
    return (
        len(site.groups) == 1
        or site.ALL_GROUPS_STAY
        or all(set(group) <= removed or not set(group) & removed for group in site.groups)
    )


def allocate(sites: Sequence[AttentionSite], paths: Paths, wanted: int, limits: Limits) -> Choice:
    """The cheapest way to remove `wanted` heads in total, or the largest number below that within the limits.

    Costs of sites add up; the split is exact (dynamic programming over sites and heads).
    """
    if limits.uniform:
        return _uniform(sites, paths, wanted, limits)
    best: dict[int, tuple[float, tuple[Step, ...]]] = {0: (0.0, ())}
    for site in sites:
        steps = limits.options(site, paths[site.index])
        grown: dict[int, tuple[float, tuple[Step, ...]]] = {}
        for count, (cost, chosen) in best.items():
            for step in steps:
                total = count + len(step.removed)
                if total > wanted or (total in grown and cost + step.error >= grown[total][0]):
                    continue
                grown[total] = (cost + step.error, (*chosen, step))
        best = grown
    _, chosen = best[max(best)]
    return _required({site.index: step.removed for site, step in zip(sites, chosen, strict=True)}, wanted)


def _uniform(sites: Sequence[AttentionSite], paths: Paths, wanted: int, limits: Limits) -> Choice:
    """The same share of every site, as near to the target as its path and the limits allow."""
    share = wanted / max(sum(site.num_heads for site in sites), 1)
    choice = {}
    for site in sites:
        most = share * site.num_heads + 1e-9
        steps = limits.options(site, paths[site.index])
        fitting = [step for step in steps if len(step.removed) <= most]
        choice[site.index] = max(fitting, key=lambda step: (len(step.removed), -step.error)).removed
    return _required(choice, wanted)


def keep_per_site(sites: Sequence[Site], paths: Paths, keep: int, limits: Limits) -> Choice:
    """Every site down to `keep` units, or as near above as its KV groups allow."""
    choice = {}
    for site in sites:
        fitting = [
            step
            for step in limits.options(site, paths[site.index])
            if site.num_units - len(step.removed) >= min(keep, site.num_units)
        ]
        choice[site.index] = max(fitting, key=lambda step: (len(step.removed), -step.error)).removed
    return _required(choice, sum(max(site.num_units - keep, 0) for site in sites))


def _required(choice: Choice, wanted: int) -> Choice:
    chosen = {index: heads for index, heads in choice.items() if heads}
    if wanted > 0 and not chosen:
        raise RefusedError(
            f"{wanted} units are fewer than the first cut of any site takes (KV heads are removed with their query"
            " heads; multiples and minimums apply); ask for more, or loosen the limits"
        )
    return chosen


@dataclass(frozen=True)
class Savings:
    """The savings of a site that loses units: operations, which rise evenly, or time, measured at a few widths."""

    units: tuple[float, ...]  # the number of removed units at each point; increasing from 0
    saved: tuple[float, ...]  # the savings there; non-decreasing from 0

    @classmethod
    def evenly(cls, units: int, each: float) -> Savings:
        """A curve on which every unit saves the same."""
        return cls((0, units), (0.0, units * each))

    def of(self, count: int) -> float:
        """Return the savings of removing `count` units."""
        return float(np.interp(count, self.units, self.saved))
