"""New value weights for the heads that stay, from the same moments that the output projection is refitted with.

A head's context is A (x V): what the head attends to, times its values. The attention A stays, V may change.
With u = A x as features, the output of the site is linear in V, and least squares needs no further pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxheadprune.choosing.activations.moments import Centred, Matrix64, Moments
from onnxheadprune.runtime.workers import algebra_workers

Ints = npt.NDArray[np.int_]
STEPS = 4
"""Steps of the solver; with its preconditioner three are as good as twenty."""
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)
"""Pulls to choose from, relative to the mean variance of the features."""
FLOOR = 1e-3
"""Least size of a column's effect, relative to the mean, for which it is scaled up."""


@dataclass(frozen=True, eq=False)
class Layout:
    """The features of each channel. Features are the kept channels, then u of one head after the other.

    Attributes:
        channels: for each kept head, its channels among the kept ones, [heads, head size].
        columns: the column of the value weights that each of them is made of, counted among those in use.
        directions: features of u per head.
    """

    channels: Ints
    columns: Ints
    directions: int

    @property
    def features(self) -> int:
        """How many there are of all heads' u."""
        return len(self.channels) * self.directions

    def block(self, head: int) -> slice:
        """The features of a head's u, counted from the first one of all heads."""
        return slice(head * self.directions, (head + 1) * self.directions)

    def spread(self, change: Matrix64, weight: Matrix64) -> Matrix64:
        """Return what a change of the values does to the output: weights on all u, [heads x directions, out]."""
        pairs = zip(self.columns, self.channels, strict=True)
        return np.concatenate([change[:, columns] @ weight[channels] for columns, channels in pairs])

    def gathered(self, outputs: Matrix64, weight: Matrix64) -> Matrix64:
        """The adjoint of `spread`, [directions, columns]."""
        found = np.zeros((self.directions, int(self.columns.max()) + 1))
        for head, (columns, channels) in enumerate(zip(self.columns, self.channels, strict=True)):
            found[:, columns] += outputs[self.block(head)] @ weight[channels].T
        return found

    def scales(self, weight: Matrix64) -> Matrix64:
        """Symmetric scales of the columns, so that changes of one size move the output by one size."""
        found = np.zeros((int(self.columns.max()) + 1,) * 2)
        for columns, channels in zip(self.columns, self.channels, strict=True):
            found[np.ix_(columns, columns)] += weight[channels] @ weight[channels].T
        sizes, vectors = np.linalg.eigh(found)
        floored: Matrix64 = np.maximum(sizes, FLOOR * sizes.mean())
        scaled: Matrix64 = (vectors / np.sqrt(floored)) @ vectors.T
        return scaled

    def mixing(self, change: Matrix64) -> Matrix64:
        """The kept channels after a change, out of all features: [features, channels]."""
        count = self.channels.size
        mixed = np.zeros((count + len(self.channels) * self.directions, count))
        mixed[:count] = np.eye(count)
        for head, (columns, channels) in enumerate(zip(self.columns, self.channels, strict=True)):
            mixed[count:][self.block(head), channels] = change[:, columns]
        return mixed


def fit_values(learned: Moments, held: Moments, weight: Matrix64, layout: Layout) -> Matrix64 | None:
    """The change of the values with the least held-out error, None if every change makes it worse.

    Least squares with a pull towards the old values, whose strength is chosen on the held-out rows.

    Args:
        learned: moments of all features, and of what the projection should put out.
        held: the same of other rows.
        weight: the output projection's rows of the kept channels, [channels, out].
        layout: of the features.

    Returns:
        [directions, columns], learned from all rows.
    """
    apart, seen = held.centred(), learned.centred()
    least = _error(apart, weight, np.zeros((len(apart.covariance) - len(weight), weight.shape[1])))

    def tried_with(strength: float) -> float:
        return _error(apart, weight, layout.spread(_solve(seen, weight, layout, strength), weight))

    best = None
    errors = algebra_workers(len(apart.covariance)).each(tried_with, STRENGTHS)
    for strength, error in zip(STRENGTHS, errors, strict=True):
        if error < least:
            least, best = error, strength
    return None if best is None else _solve(learned.merged(held).centred(), weight, layout, best)


def _solve(moments: Centred, weight: Matrix64, layout: Layout, strength: float) -> Matrix64:
    """Conjugate gradients on the normal equations, preconditioned by what each head would do alone.

    The unknowns are scaled so that the pull counts what a change does to the output.
    """
    count = len(weight)
    inner = moments.covariance[count:, count:]
    scales = layout.scales(weight)
    pull = strength * float(np.diag(inner).mean()) + 1e-30
    alone = _alone(inner, layout, pull)
    missing = moments.cross[count:] - moments.covariance[count:, :count] @ weight
    change = np.zeros((layout.directions, len(scales)))
    residual = layout.gathered(missing, weight) @ scales
    helped = _applied(alone, residual)
    direction, size = helped, float(np.sum(residual * helped))
    for _ in range(STEPS):
        image = layout.gathered(inner @ layout.spread(direction @ scales, weight), weight) @ scales
        image += pull * direction
        curvature = float(np.sum(direction * image))
        if curvature <= 0 or size <= 0:
            break
        change = change + (size / curvature) * direction
        residual = residual - (size / curvature) * image
        helped = _applied(alone, residual)
        before, size = size, float(np.sum(residual * helped))
        direction = helped + (size / before) * direction
    return change @ scales


def _alone(inner: Matrix64, layout: Layout, pull: float) -> list[tuple[Ints, Matrix64]]:
    """For the columns of each group of heads, the inverse of the group's mean covariance with the pull."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for head, columns in enumerate(layout.columns):
        groups.setdefault(tuple(columns.tolist()), []).append(head)
    found = []
    for columns, heads in groups.items():
        mean = np.mean([inner[layout.block(head), layout.block(head)] for head in heads], axis=0)
        found.append((np.array(columns), np.linalg.inv(mean + pull * np.eye(layout.directions))))
    return found


def _applied(alone: list[tuple[Ints, Matrix64]], residual: Matrix64) -> Matrix64:
    made = np.empty_like(residual)
    for columns, inverse in alone:
        made[:, columns] = inverse @ residual[:, columns]
    return made


def _error(moments: Centred, weight: Matrix64, more: Matrix64) -> float:
    """Mean square error up to a constant, the bias at its best."""
    whole = np.concatenate([weight, more])
    return float(np.sum(whole * (moments.covariance @ whole - 2 * moments.cross)))
