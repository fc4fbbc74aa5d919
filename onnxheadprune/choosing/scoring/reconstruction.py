"""Scores and paths by the error after the best refit: optimal brain surgeon on groups of channels, from Gram matrices.

Hassibi and Stork 1993 for the algebra; OSSCAR (Meng et al. 2024, 2403.12983) for neurons, several at a time, whose
weights are refitted after each step by updates of the inverse; SlimGPT (Ling et al. 2024) for heads as groups.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.contexts import projection_matrix
from onnxheadprune.choosing.activations.moments import Moments
from onnxheadprune.choosing.scoring.method import Scored, Subject, from_contexts
from onnxheadprune.choosing.scoring.moves import BOTH, Heads, Move, Step, cheapest, moves

Matrix64 = npt.NDArray[np.float64]
DAMPING = 1e-2
"""Added to the covariance, relative to its mean diagonal: what few data say about weak directions is noise."""


class Surgeon:
    """Optimal brain surgeon on a projection: removes groups of channels, and refits the rest each time.

    No array is changed in place, so that a shallow copy is independent.
    """

    def __init__(self, covariance: Matrix64, weights: Matrix64) -> None:
        size = len(covariance)
        damping = DAMPING * float(np.trace(covariance)) / max(size, 1) + 1e-30
        self._inverse = np.linalg.inv(covariance + damping * np.eye(size))
        self._weights = weights
        self._products = weights @ weights.T if weights.shape[1] >= size else None
        """Of the weights of every two channels, all that errors need of them; None where outputs are fewer."""
        self.left = np.arange(size)
        """The channels that are still there."""
        self.variance = float(np.sum(weights * (covariance @ weights)))
        self._bare = damping * np.square(weights).sum(axis=1)
        """The share of the damping in the loss of each channel, which is no error."""

    def error(self, channels: Sequence[int]) -> float:
        """Return the loss of the output if these channels are removed too."""
        at = np.searchsorted(self.left, channels)
        if self._products is None:
            block = self._weights[at]
            products = block @ block.T
        else:
            products = self._products[np.ix_(at, at)]
        lost = float(np.trace(np.linalg.solve(self._inverse[np.ix_(at, at)], products)))
        return max(lost - float(self._bare[list(channels)].sum()), 0.0)

    def errors(self) -> Matrix64:
        """Return the loss of the output if one more channel is removed, for each remaining one."""
        squares = np.square(self._weights).sum(axis=1) if self._products is None else np.diag(self._products)
        lost = squares / np.diag(self._inverse)
        return np.asarray(np.maximum(lost - self._bare[self.left], 0.0), dtype=np.float64)

    def remove(self, channels: Sequence[int]) -> None:
        """Remove channels, and refit the weights of the others."""
        at = np.searchsorted(self.left, channels)
        rest = np.setdiff1d(np.arange(len(self.left)), at)
        gain = np.linalg.solve(self._inverse[np.ix_(at, at)], self._inverse[np.ix_(at, rest)]).T
        if self._products is None:
            self._weights = self._weights[rest] - gain @ self._weights[at]
        else:
            mixed = self._products[np.ix_(rest, at)] - 0.5 * gain @ self._products[np.ix_(at, at)]
            change = mixed @ gain.T
            self._products = self._products[np.ix_(rest, rest)] - change - change.T
        self._inverse = self._inverse[np.ix_(rest, rest)] - gain @ self._inverse[np.ix_(at, rest)]
        self.left = self.left[rest]


def paths(
    site: Site,
    moments: Sequence[Moments],
    ways: Sequence[Sequence[str]] = (BOTH,),
    protected: Iterable[int] = (),
) -> list[tuple[Step, ...]]:
    """For each of several ways, the best order of removing a site's heads, and the cost of each step."""
    surgeons = [
        Surgeon(moment.centred().covariance, projection_matrix(projection))
        for projection, moment in zip(site.projections, moments, strict=True)
    ]
    kept = frozenset(protected)
    return [_walked(site, [copy.copy(surgeon) for surgeon in surgeons], kept, way) for way in ways]


def _walked(
    site: Site, surgeons: Sequence[Surgeon], protected: Heads, ways: Sequence[str]
) -> tuple[Step, ...]:
    """One path; modifies the surgeons."""
    variance = sum(surgeon.variance for surgeon in surgeons) or 1.0
    gone: Heads = frozenset()
    total = 0.0
    steps: list[Step] = []
    while True:
        options = moves(site, gone, protected, _alone(site, surgeons, gone), ways)
        if not options:
            return tuple(steps)
        best, cost = cheapest(options, lambda move: _error(site, surgeons, move))
        for surgeon, channels in zip(surgeons, _channels(site, best), strict=True):
            surgeon.remove(channels)
        gone |= best
        total += cost
        steps.append(Step(gone, total / variance))


def _alone(site: Site, surgeons: Sequence[Surgeon], removed: Heads) -> list[float] | None:
    """Return the cost of removing each head alone; only needed where KV heads group them."""
    if all(len(group) == 1 for group in site.groups):
        return None
    return [
        float("inf") if head in removed else _error(site, surgeons, frozenset((head,)))
        for head in range(site.num_units)
    ]


def _error(site: Site, surgeons: Sequence[Surgeon], move: Move) -> float:
    return sum(s.error(channels) for s, channels in zip(surgeons, _channels(site, move), strict=True))


def _channels(site: Site, heads: Iterable[int]) -> list[list[int]]:
    """For each projection, the channels of some heads, ascending."""
    return [
        sorted(channel for head in heads for channel in projection.channels[head])
        for projection in site.projections
    ]


def reconstruction(subject: Subject) -> Scored:
    """Output variance lost with a unit after the best refit of the others (OBS, Hassibi & Stork 1993)."""
    return Scored(from_contexts(subject, _scores))


def _scores(site: Site, moments: Sequence[Moments]) -> npt.NDArray[np.float64]:
    """Return the additional loss of the site's output when a unit is removed in its turn, after refit.

    Shares of the output's variance, equal for units of one step. Units removed early cost little; scores never decrease
    along the path, so a threshold keeps the path's order. The last units share the rest.
    """
    scores = np.zeros(site.num_units)
    before, done, highest = 0.0, frozenset[int](), 0.0
    for step in wide_path(site, moments) if site.KIND.has_many_units else paths(site, moments)[0]:
        fresh = list(step.removed - done)
        highest = max(highest, (step.error - before) / len(fresh))
        scores[fresh] = highest
        before, done = step.error, step.removed
    last = [one for one in range(site.num_units) if one not in done]
    scores[last] = max(highest, (1.0 - before) / max(len(last), 1))
    return scores


def wide_path(
    site: Site, moments: Sequence[Moments], multiple: int = 1, protected: Collection[int] = ()
) -> tuple[Step, ...]:
    """The path of a site of many units, of which multiples are left, with errors as shares of its output's variance."""
    surgeons = [
        Surgeon(moment.centred().covariance, projection_matrix(projection))
        for projection, moment in zip(site.projections, moments, strict=True)
    ]
    variance = sum(surgeon.variance for surgeon in surgeons) or 1.0
    owners = _owners(site)
    total, steps = 0.0, []
    for going, gone in _taken(site, multiple, protected, lambda: _costs(site, surgeons, owners)):
        for surgeon, projection in zip(surgeons, site.projections, strict=True):
            channels = sorted(channel for one in going for channel in projection.channels[one])
            total += surgeon.error(channels)
            surgeon.remove(channels)
        steps.append(Step(gone, total / variance))
    return tuple(steps)


def wide_path_by_worth(
    site: Site, worth: Sequence[float], multiple: int = 1, protected: Collection[int] = ()
) -> tuple[Step, ...]:
    """The path that removes units by increasing score; scores add up."""
    each = np.array(worth)
    return tuple(
        Step(gone, float(each[list(gone)].sum()))
        for _, gone in _taken(site, multiple, protected, lambda: each)
    )


def _taken(
    site: Site, multiple: int, protected: Collection[int], costs: Callable[[], np.ndarray]
) -> Iterator[tuple[list[int], frozenset[int]]]:
    """Steps from all units to few: the units removed in it, and those removed so far."""
    left = [unit for unit in site.units if not set(unit) & set(protected)]
    gone: frozenset[int] = frozenset()
    for count in _counts(site, multiple, len(protected)):
        going: list[int] = []
        each = costs()
        ranked = sorted(left, key=lambda unit: (sum(each[one] for one in unit) / len(unit), unit))
        for unit in ranked:
            if site.num_units - len(gone) - len(going) - len(unit) >= count:
                going += unit
        if not going:
            continue
        gone |= frozenset(going)
        left = [unit for unit in left if not gone & set(unit)]
        yield going, gone


def _counts(site: Site, multiple: int, protected: int) -> list[int]:
    """Return the number of remaining units after each step, down to few."""
    least = max(multiple, -(-protected // multiple) * multiple)
    first = (site.num_units - 1) // multiple * multiple
    return list(range(first, least - 1, -site.stride(multiple)))


def _owners(site: Site) -> list[np.ndarray]:
    """For each projection, the unit that each of its channels belongs to; -1 for channels of no unit."""
    found = []
    for projection in site.projections:
        owner = np.full(int(np.prod(projection.sizes)), -1)
        for one, channels in enumerate(projection.channels):
            owner[list(channels)] = one
        found.append(owner)
    return found


def _costs(site: Site, surgeons: Sequence[Surgeon], owners: Sequence[np.ndarray]) -> np.ndarray:
    """Return the cost of removing each unit alone, [units]; 0 for removed ones."""
    costs = np.zeros(site.num_units)
    for surgeon, owner in zip(surgeons, owners, strict=True):
        mine = owner[surgeon.left]
        owned = mine >= 0
        np.add.at(costs, mine[owned], surgeon.errors()[owned])
    return costs
