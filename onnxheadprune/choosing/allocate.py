"""Allocation: the units that each site loses, at the least total cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.scoring.moves import Heads, Step
from onnxheadprune.errors import RefusedError
from onnxheadprune.settings.cutting import Selecting

Paths = Mapping[int, Sequence[Step]]
Choice = dict[int, Heads]
NOTHING = Step(frozenset(), 0.0)


def options(given: Selecting, site: Site, path: Sequence[Step]) -> list[Step]:
    """Return the steps of a path that respect the limits of a selection, first the one that removes nothing."""
    return [step for step in (NOTHING, *path) if _allows(given, site, step.removed)]


def _allows(given: Selecting, site: Site, removed: Heads) -> bool:
    left = site.num_units - len(removed)
    return not removed or (
        left >= max(given.min_heads, 0)
        and left % given.multiple(site.KIND.units) == 0
        and (not given.takes_whole_groups or _takes_whole_groups(site, removed))
    )


def _takes_whole_groups(site: Site, removed: Heads) -> bool:
    return (
        len(site.groups) == 1
        or not site.may_lose_groups
        or all(set(group) <= removed or not set(group) & removed for group in site.groups)
    )


def allocate(
    sites: Sequence[Site], paths: Paths, size_of: Callable[[Site, Step], int], wanted: int, *, over: bool
) -> Choice:
    """The cheapest cut of `wanted` pieces: of the most up to that, or with `over` of at least so many.

    Costs of sites add up: a knapsack with one step or none per site, solved exactly. The least cost of some pieces is
    the minimum over the last site's steps of the least cost of the pieces before plus that of the step. A step of a
    site that has others inside is taken in place of theirs.

    Args:
        sites: those inside another one just before it.
    """
    options = {site.index: (NOTHING, *paths[site.index]) for site in sites}
    costs = np.full(wanted + 1, np.inf)
    costs[0] = 0.0
    known, picks = [costs], list[np.ndarray]()
    for at, site in enumerate(sites):
        best, pick = np.full(wanted + 1, np.inf), np.zeros(wanted + 1, int)
        numbered = list(enumerate(options[site.index]))
        # Which of equally cheap cuts is taken.
        for number, step in numbered if over else sorted(numbered, key=lambda one: -len(one[1].removed)):
            size = size_of(site, step)
            if size > wanted and not over:
                continue
            size = min(size, wanted)
            costs = known[before(sites, at) if step.removed else at]
            below = np.full(size, costs[0] if over else np.inf)
            reached = np.concatenate([below, costs[: wanted + 1 - size]]) + step.error
            better = reached < best
            best[better], pick[better] = reached[better], number
        picks.append(pick)
        known.append(best)
    choice: Choice = {}
    left = wanted if over else int(np.flatnonzero(known[-1] < np.inf)[-1])
    at = len(sites) - 1
    while at >= 0:
        site = sites[at]
        step = options[site.index][picks[at][left]]
        choice[site.index] = step.removed
        left = max(left - size_of(site, step), 0)
        at = (before(sites, at) if step.removed else at) - 1
    return _required(choice, wanted)


def before(sites: Sequence[Site], at: int) -> int:
    """Return the number of sites before one and all that lie inside it."""
    return at - len(sites[at].inner(sites[:at]))


def evenly(paths: Paths, aims: Mapping[Site, float], wanted: int, *, over: bool) -> Choice:
    """So many units of every site: the most up to that, or with `over` the least above it."""
    choice = {}
    for site, aim in aims.items():
        options = (NOTHING, *paths[site.index])
        if over:
            fitting = [step for step in options if len(step.removed) >= aim]
            step = min(fitting, key=_by_size) if fitting else max(options, key=_by_size)
        else:
            step = max((step for step in options if len(step.removed) <= aim + 1e-9), key=_by_size)
        choice[site.index] = step.removed
    return _required(choice, wanted)


def _by_size(step: Step) -> tuple[int, float]:
    return len(step.removed), -step.error


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
