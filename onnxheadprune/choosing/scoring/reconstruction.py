"""Scores and paths by the error after the best refit: optimal brain surgeon on groups of channels, from Gram matrices.

Hassibi and Stork 1993 for the algebra; OSSCAR (Meng et al. 2024, 2403.12983) for neurons, several at a time, whose
weights are refitted after each step by updates of the inverse; SlimGPT (Ling et al. 2024) for heads as groups.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.contexts import projection_matrix
from onnxheadprune.choosing.activations.moments import Moments
from onnxheadprune.choosing.scoring.method import Scored, Subject, from_contexts
from onnxheadprune.choosing.scoring.moves import Move, paths
from onnxheadprune.model.tensors import Floats

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


class Refitted:
    """The worth of units after the best refit of the others: shares of the variance of a site's outputs."""

    def __init__(self, site: Site, moments: Sequence[Moments]) -> None:
        self._site = site
        self._surgeons = [
            Surgeon(moment.centred().covariance, projection_matrix(projection))
            for projection, moment in zip(site.projections, moments, strict=True)
        ]
        self.whole = sum(surgeon.variance for surgeon in self._surgeons) or 1.0

    def __copy__(self) -> Refitted:
        """One that removes units of its own."""
        made = Refitted.__new__(Refitted)
        made._site, made.whole = self._site, self.whole
        made._surgeons = [copy.copy(surgeon) for surgeon in self._surgeons]
        return made

    def each(self) -> Floats:
        """Return the cost of removing each unit alone; 0 for removed ones. Of many units each channel counts alone."""
        costs = np.zeros(self._site.num_units)
        for surgeon, projection in zip(self._surgeons, self._site.projections, strict=True):
            if self._site.KIND.has_many_units:
                channels = np.zeros(int(np.prod(projection.sizes)))
                channels[surgeon.left] = surgeon.errors()
                costs += [channels[list(mine)].sum() for mine in projection.channels]
            else:
                there = set(surgeon.left.tolist())
                costs += [
                    surgeon.error(sorted(mine)) if there.issuperset(mine) else 0.0
                    for mine in projection.channels
                ]
        return costs

    def of(self, move: Move) -> float:
        """Return the output's variance that is lost with some units."""
        return sum(
            s.error(channels) for s, channels in zip(self._surgeons, self._channels(move), strict=True)
        )

    def remove(self, move: Move) -> None:
        """Remove them, and refit the others."""
        for surgeon, channels in zip(self._surgeons, self._channels(move), strict=True):
            surgeon.remove(channels)

    def _channels(self, move: Move) -> list[list[int]]:
        """For each projection, the channels of some units, ascending."""
        return [
            sorted(channel for unit in move for channel in projection.channels[unit])
            for projection in self._site.projections
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
    # Scores are of heads, whatever shares a KV head: a choice by scores knows which cuts are legal.
    apart = replace(site, groups=tuple((unit,) for unit in range(site.num_units)))
    (path,) = paths(apart, Refitted(site, moments))
    for step in path:
        fresh = list(step.removed - done)
        highest = max(highest, (step.error - before) / len(fresh))
        scores[fresh] = highest
        before, done = step.error, step.removed
    last = [one for one in range(site.num_units) if one not in done]
    scores[last] = max(highest, (1.0 - before) / max(len(last), 1))
    return scores
