"""Least squares pulled towards the old weights: of one linear layer, and of the values of the remaining heads.

The pull is chosen on held-out rows. Where weights are quantized, the error is measured after rounding: outputs that do
not improve keep their old weights.

A head's context is A (x V): what the head attends to, times its values. The attention A stays, V may change. With
u = A x as features, the output of the site is linear in V, and least squares needs no further pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg

from onnxheadprune.attention.quantized import Grid
from onnxheadprune.choosing.activations.moments import Centred, Matrix64, Moments, Ridge
from onnxheadprune.runtime.workers import algebra_workers

STRENGTHS = (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Ridge strengths to choose from, relative to the mean variance of the features."""
STRONG = STRENGTHS[4:]
"""Those to choose from where rows are fewer than inputs, which a weaker pull would fit exactly; beside them a move of
the bias alone, and none."""
LARGE = 2048
"""Inputs from which on every other strength is tried: each takes seconds then."""
DAMPING = 1e-2
"""Added to the covariance, relative to its mean diagonal."""
BLOCK = 64
"""Rows that are rounded before the remaining rows are updated."""
Ints = npt.NDArray[np.int_]
STEPS = 4
"""Steps of the solver; with its preconditioner three are as good as twenty."""
PULLS = (0.03, 0.1, 0.3, 1.0, 3.0)
"""Pulls to choose from, relative to the mean variance of the features."""
FLOOR = 1e-3
"""Least size of a column's effect, relative to the mean, for which it is scaled up."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A refitted layer."""

    weight: Matrix64  # [in, out]
    bias: Matrix64 | None  # [out], None where the layer has none
    strength: float | None  # the median ridge that was chosen, None if nothing moved but the bias
    before: float  # held-out mean square error with the old weights
    after: float  # the same with the new ones, learned without the held-out rows
    # outputs that keep their old weights, since rounding to the quantized values made the refit worse
    lost: int = 0


@dataclass(frozen=True, eq=False)
class _Choices:
    """The choice for each output: 0 unchanged, 1 only its bias changes, then one number per strength."""

    weight: Matrix64  # the old weights
    bias: Matrix64 | None  # the old bias
    strengths: Sequence[float]  # to choose from
    chosen: npt.NDArray[np.int_]  # the choice per output

    def learned(self, moments: Moments, grid: Grid | None) -> tuple[Matrix64, Matrix64 | None]:
        """Weights and bias by these choices, learned from what the old weights leave on some rows."""
        new, problem = self.weight.copy(), _problem(moments, self.bias)

        def solve(choice: int) -> None:
            columns, strength = np.flatnonzero(self.chosen == choice), self.strengths[choice - 2]
            new[:, columns] += problem.solved(strength, columns, roughly=grid is not None)

        for _ in algebra_workers(len(new)).each(solve, np.unique(self.chosen[self.chosen > 1]).tolist()):
            pass
        return self.stored(new, moments, grid)

    def stored(self, new: Matrix64, moments: Moments, grid: Grid | None) -> tuple[Matrix64, Matrix64 | None]:
        """New weights, rounded where they are quantized, and the bias that belongs to them."""
        moved = self.chosen > 1
        if grid is not None and moved.any():
            rounded = on_grid(new, moments, grid, has_bias=self.bias is not None)
            np.copyto(new, rounded, where=moved)
        if self.bias is None:
            return new, None
        # The bias that makes the mean of the outputs equal that of the targets.
        shifted = (moments.y_sum - moments.x_sum @ (new - self.weight)) / (moments.total or 1.0)
        return new, np.where(self.chosen > 0, shifted, self.bias)


def fit(
    learned: Moments,
    held: Moments,
    weight: Matrix64,
    bias: Matrix64 | None,
    grid: Grid | None = None,
) -> Fit:
    """The weights near `weight` with the least held-out error.

    Least squares treats every output separately, and so the strength is chosen for each output, on the
    held-out rows. The final weights learn from all rows.

    Args:
        weight: the old weights, [in, out].
        bias: the old bias, [out]; None for a layer that has none.
    """
    strengths = STRENGTHS if len(weight) < LARGE else STRENGTHS[1::2]
    strengths = STRONG if learned.count < len(weight) else strengths
    learned, held = learned.less(weight), held.less(weight)
    problem = _problem(learned, bias)
    apart = _Apart(learned, held, bias)

    def tried_with(strength: float) -> tuple[Matrix64, npt.NDArray[np.float32] | None]:
        try:
            step = problem.tried(strength)
        except np.linalg.LinAlgError:
            return np.full(weight.shape[1], np.inf), None
        return apart.after(step), step if grid is not None else None

    # First choice: nothing moves. Second: the bias alone. Then every strength.
    choices = [apart.error(bias), apart.error(apart.shift)]
    best = weight.copy()
    for errors, step in algebra_workers(len(weight)).each(tried_with, strengths):
        better = errors < np.min(choices, axis=0)
        if step is not None:
            np.add(weight, step, out=best, where=better)
        choices.append(errors)
    chosen = np.argmin(choices, axis=0)
    both, errors, lost = learned.merged(held), np.min(choices, axis=0), 0
    made = _Choices(weight, bias, strengths, chosen)
    if grid is not None:
        step = (made.stored(best, learned, grid)[0] - weight).astype(np.float32)
        tried = np.where(chosen > 1, apart.after(step), np.inf)
        still = np.argmin(choices[:2], axis=0)
        pays = tried < np.min(choices[:2], axis=0)
        lost = int(((chosen > 1) & ~pays).sum())
        errors = np.where(chosen > 1, np.where(pays, tried, np.min(choices[:2], axis=0)), errors)
        made = _Choices(weight, bias, strengths, np.where((chosen > 1) & ~pays, still, chosen))
    new, offset = made.learned(both, grid)
    used = [strengths[choice - 2] for choice in made.chosen if choice > 1]
    strength = float(np.median(used)) if used else None
    return Fit(new, offset, strength, float(choices[0].sum()), float(errors.sum()), lost)


class _Apart:
    """Errors on held-out rows of weights that differ a little from the old ones, computed from the difference."""

    def __init__(self, learned: Moments, held: Moments, bias: Matrix64 | None) -> None:
        """Round once what all differences are multiplied with.

        Args:
            held: moments of what the old weights leave, as those to learn from.
        """
        self._held, self._total = held, learned.total or 1.0
        self.shift = None if bias is None else learned.y_sum / self._total
        self._slope = (-2 * held.cross).astype(np.float32)
        self._means = np.stack([held.x_sum, learned.x_sum]).astype(np.float32)
        self._gram = held.gram.astype(np.float32)

    def after(self, step: npt.NDArray[np.float32]) -> Matrix64:
        """The error after a step from the weights, with the bias that fits on the rows to learn from."""
        seen, fitted = (self._means @ step).astype(np.float64)
        shift = None if self.shift is None else self.shift - fitted / self._total
        change = np.sum(step * (self._gram @ step + self._slope), axis=0, dtype=np.float64)
        return self.error(shift, np.asarray(change), seen)

    def error(
        self, bias: Matrix64 | None, change: Matrix64 | float = 0.0, sums: Matrix64 | float = 0.0
    ) -> Matrix64:
        """The error with a bias, and with a step's change of the squares and of the sums of the outputs."""
        held, offset = self._held, 0.0 if bias is None else bias
        squares = held.y_square + change + held.total * offset**2 + 2 * offset * (sums - held.y_sum)
        return np.asarray(squares / (held.total or 1.0), dtype=np.float64)


def _problem(moments: Moments, bias: Matrix64 | None) -> Ridge:
    if bias is not None:
        return Ridge(moments.centred())
    # Without a bias the mean has to go through the weights as well.
    total = moments.total or 1.0
    return Ridge(Centred(moments.gram / total, moments.cross / total))


def on_grid(weight: Matrix64, moments: Moments, grid: Grid, *, has_bias: bool) -> Matrix64:
    """Quantized weights whose outputs on the data are near those of the given weights.

    Rounding to the nearest level is best for each weight, not for what the layer outputs. Frantar et al. 2023 (GPTQ)
    round the weights of one input after the other, and change those of correlated inputs that follow to make up for
    the error. Scales and zero points stay what they are.

    Args:
        weight: the weights to round, [in, out].
    """
    covariance = moments.centred().covariance if has_bias else moments.gram / (moments.total or 1.0)
    size = len(covariance)
    damping = DAMPING * float(np.trace(covariance)) / max(size, 1) + 1e-30
    # Row i of the factor U of the inverse UᵀU says how the rows after i answer to an error in i, those before being
    # done. U is the inverse of a triangular factor of the covariance itself, in the order of the last row first.
    lower = scipy.linalg.cholesky((covariance + damping * np.eye(size))[::-1, ::-1], lower=True)
    factor = scipy.linalg.lapack.dtrtri(lower, lower=True)[0][::-1, ::-1].astype(np.float32)
    left, found = weight.astype(np.float32), np.empty_like(weight)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        errors = np.empty((stop - start, weight.shape[1]), np.float32)
        for row in range(start, stop):
            now = left[row] - factor[start:row, row] @ errors[: row - start]
            found[row] = grid.of_rows(row).nearest(now)
            errors[row - start] = (now - found[row]) / factor[row, row]
        left[stop:] -= factor[start:stop, stop:].T @ errors
    return found


@dataclass(frozen=True, eq=False)
class Layout:
    """The features of each channel. Features are the kept channels, then u of one head after the other."""

    channels: Ints  # for each kept head, its channels among the kept ones, [heads, head size]
    columns: Ints  # the column of the value weights that computes each of them, counted among those in use
    directions: int  # features of u per head

    @property
    def features(self) -> int:
        """The number of features of u, of all heads together."""
        return len(self.channels) * self.directions

    def block(self, head: int) -> slice:
        """The features of a head's u, counted from the first one of all heads."""
        return slice(head * self.directions, (head + 1) * self.directions)

    def spread(self, change: Matrix64, weight: Matrix64) -> Matrix64:
        """The change of the output by a change of the values, as weights on all u: [heads x directions, out]."""
        pairs = zip(self.columns, self.channels, strict=True)
        return np.concatenate([change[:, columns] @ weight[channels] for columns, channels in pairs])

    def gathered(self, outputs: Matrix64, weight: Matrix64) -> Matrix64:
        """The adjoint of `spread`, [directions, columns]."""
        found = np.zeros((self.directions, int(self.columns.max()) + 1))
        for head, (columns, channels) in enumerate(zip(self.columns, self.channels, strict=True)):
            found[:, columns] += outputs[self.block(head)] @ weight[channels].T
        return found

    def scales(self, weight: Matrix64) -> Matrix64:
        """Symmetric scales of the columns, so that equally large changes change the output equally."""
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
    """The change of the value weights with the least held-out error, None if every change makes it worse.

    Least squares with a pull towards the old values, whose strength is chosen on the held-out rows.

    Args:
        learned: moments of all features, and of the target outputs of the projection.
        weight: the output projection's rows of the kept channels, [channels, out].

    Returns:
        [directions, columns], learned from all rows.
    """
    apart, seen = held.centred(), learned.centred()
    least = _error(apart, weight, np.zeros((len(apart.covariance) - len(weight), weight.shape[1])))

    def tried_with(strength: float) -> float:
        return _error(apart, weight, layout.spread(_solve(seen, weight, layout, strength), weight))

    best = None
    errors = algebra_workers(len(apart.covariance)).each(tried_with, PULLS)
    for strength, error in zip(PULLS, errors, strict=True):
        if error < least:
            least, best = error, strength
    return None if best is None else _solve(learned.merged(held).centred(), weight, layout, best)


def _solve(moments: Centred, weight: Matrix64, layout: Layout, strength: float) -> Matrix64:
    """Conjugate gradients on the normal equations, preconditioned by the solution for each head alone.

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
