"""Second moments of activations, streamed: all that linear algebra needs, without storing an activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Matrix64 = npt.NDArray[np.float64]


class Moments:
    """Gram matrix of features, and their products with targets. Rows may have weights.

    Attributes:
        count: rows seen.
        total: sum of their weights.
        gram: sum of x xᵀ, [n, n].
        cross: sum of x yᵀ, [n, k].
        x_sum: sum of x, [n].
        y_sum: sum of y, [k].
        y_square: sum of y², [k].
    """

    def __init__(self, features: int, targets: int = 0) -> None:
        """Empty moments of `features` features and `targets` targets."""
        self.count = 0
        self.total = 0.0
        self.gram = np.zeros((features, features))
        self.cross = np.zeros((features, targets))
        self.x_sum = np.zeros(features)
        self.y_sum = np.zeros(targets)
        self.y_square = np.zeros(targets)

    def add(self, x: Array, y: Array | None = None, weights: Array | None = None) -> None:
        """Adds rows. Products are rounded like the activations, sums are double.

        Args:
            x: features, [rows, n].
            y: targets, [rows, k].
            weights: of the rows, [rows]; None weighs all alike.
        """
        self.count += len(x)
        each = np.ones(len(x)) if weights is None else weights.astype(np.float64)
        self.total += float(each.sum())
        # The product of a matrix with itself takes half the work, so each factor gets the root of the weight.
        root = np.sqrt(each)[:, None].astype(x.dtype)
        scaled = x if weights is None else x * root
        self.gram += scaled.T @ scaled
        self.x_sum += each @ x
        if y is not None:
            self.cross += scaled.T @ (y if weights is None else y * root)
            self.y_sum += each @ y
            self.y_square += each @ np.square(y, dtype=np.float64)

    def merged(self, other: Moments) -> Moments:
        """The moments of both."""
        both = Moments(len(self.x_sum), len(self.y_sum))
        for name in ("count", "total", "gram", "cross", "x_sum", "y_sum", "y_square"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def first(self, count: int) -> Moments:
        """The moments of the first features alone."""
        made = Moments(count, len(self.y_sum))
        made.count, made.total = self.count, self.total
        made.gram, made.cross = self.gram[:count, :count], self.cross[:count]
        made.x_sum, made.y_sum, made.y_square = self.x_sum[:count], self.y_sum, self.y_square
        return made

    def mixed(self, mixing: Matrix64) -> Moments:
        """The moments of linear combinations of the features, x M.

        Args:
            mixing: M, [n, m].
        """
        made = Moments(mixing.shape[1], len(self.y_sum))
        made.count, made.total = self.count, self.total
        made.gram, made.cross = mixing.T @ (self.gram @ mixing), mixing.T @ self.cross
        made.x_sum, made.y_sum, made.y_square = self.x_sum @ mixing, self.y_sum, self.y_square
        return made

    def centred(self) -> Centred:
        """Covariances and means."""
        total = self.total or 1.0
        x_mean, y_mean = self.x_sum / total, self.y_sum / total
        return Centred(
            self.gram / total - np.outer(x_mean, x_mean),
            self.cross / total - np.outer(x_mean, y_mean),
            x_mean,
            y_mean,
        )

    def towards(self, weight: Matrix64, rows: npt.NDArray[np.int_]) -> Centred:
        """What some of the features have to say about x W of all of them: targets without a second pass."""
        total = self.total or 1.0
        mean = self.x_sum / total
        covariance = self.gram / total - np.outer(mean, mean)
        return Centred(covariance[np.ix_(rows, rows)], covariance[rows] @ weight, mean[rows], mean @ weight)

    def variance(self) -> float:
        """Weighted variance of the targets, summed over them."""
        total = self.total or 1.0
        mean = self.y_sum / total
        return float(self.y_square.sum() / total - mean @ mean)

    def errors(self, weight: Matrix64, bias: Matrix64 | None) -> Matrix64:
        """Weighted mean of (x W + b - y)² over the rows, for each target."""
        offset = np.zeros(len(self.y_sum)) if bias is None else bias
        squares = np.sum(weight * (self.gram @ weight - 2 * self.cross), axis=0) + self.y_square
        squares += self.total * offset**2 + 2 * offset * (self.x_sum @ weight - self.y_sum)
        result: Matrix64 = squares / (self.total or 1.0)
        return result


@dataclass(frozen=True, eq=False)
class Centred:
    """Covariance of features [n, n], their covariance with targets [n, k], and the means."""

    covariance: Matrix64
    cross: Matrix64
    x_mean: Matrix64
    y_mean: Matrix64


def ridge(centred: Centred, start: Matrix64, strength: float) -> Matrix64:
    """Least squares pulled towards `start`: argmin |x W - y|² + λ |W - start|².

    λ is `strength` times the mean variance of the features, so it means the same at every scale
    (Hoerl and Kennard 1970, with the prior moved from zero to the weights there are).

    Args:
        centred: moments of features and targets.
        start: the weights to stay close to, [n, k].
        strength: of the pull, without a unit.
    """
    size = len(start)
    penalty = strength * float(np.trace(centred.covariance)) / max(size, 1)
    # A direction in which nothing varies says nothing about the weights: they stay.
    penalty = max(penalty, 1e-10 * float(np.max(np.diag(centred.covariance), initial=0.0)), 1e-30)
    system = centred.covariance + penalty * np.eye(size)
    step = np.linalg.solve(system, centred.cross - centred.covariance @ start)
    return np.asarray(start + step, dtype=np.float64)
