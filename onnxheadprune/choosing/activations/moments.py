"""Second moments of activations, streamed: all that linear algebra needs, without storing an activation."""

from __future__ import annotations

import contextlib
import functools
import math
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.linalg

from onnxheadprune.errors import UsageError
from onnxheadprune.model.tensors import Array
from onnxheadprune.runtime.workers import Workers

Matrix64 = npt.NDArray[np.float64]
MAPPED_FROM = 2**26
"""Bytes of products from which on they lie in a file."""
LARGE = 2048
"""Features from which on products are made one at a time: several would fill memory."""
Rows: TypeAlias = tuple[Array, Array | None, Array | None]
"""Features [rows, n], targets [rows, k] and weights [rows]."""
AT_ONCE = 2048
"""Rows that are worth a product of their own: adding one to the sums costs as much as multiplying some hundred rows."""


class NotFiniteError(UsageError):
    """The model computes numbers on the data that no moments can be made of."""


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
        """Add rows. Products are rounded like the activations, sums of them are double.

        Args:
            x: features, [rows, n].
            y: targets, [rows, k].
            weights: of the rows, [rows]; None weighs all alike.
        """
        self.take(Products.of((x, y, weights)))

    def take(self, products: Products) -> None:
        """Add the products of some rows."""
        self.count += products.count
        self.total += products.total
        self.gram += products.gram
        self.x_sum += products.x_sum
        if products.cross is not None:
            self.cross += products.cross
            self.y_sum += products.y_sum
            self.y_square += products.y_square

    def aside(self) -> Moments:
        """Keep a large Gram matrix in a file that the system maps: a choice holds those of all sites at a time."""
        if self.gram.nbytes > MAPPED_FROM:
            with contextlib.suppress(OSError):  # where the disk is full, memory has to hold it
                gram = _mapped(self.gram.shape)
                np.copyto(gram, self.gram)
                self.gram = gram
        return self

    def merged(self, other: Moments) -> Moments:
        """The moments of both."""
        both = Moments(len(self.x_sum), len(self.y_sum))
        for name in ("count", "total", "gram", "cross", "x_sum", "y_sum", "y_square"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def first(self, count: int) -> Moments:
        """The moments of the first features alone."""
        moments = Moments(count, len(self.y_sum))
        moments.count, moments.total = self.count, self.total
        moments.gram, moments.cross = self.gram[:count, :count], self.cross[:count]
        moments.x_sum, moments.y_sum, moments.y_square = self.x_sum[:count], self.y_sum, self.y_square
        return moments

    def mixed(self, mixing: Matrix64) -> Moments:
        """The moments of linear combinations of the features, x M.

        Args:
            mixing: M, [n, m].
        """
        moments = Moments(mixing.shape[1], len(self.y_sum))
        moments.count, moments.total = self.count, self.total
        moments.gram, moments.cross = mixing.T @ (self.gram @ mixing), mixing.T @ self.cross
        moments.x_sum, moments.y_sum, moments.y_square = self.x_sum @ mixing, self.y_sum, self.y_square
        return moments

    def through(self, weight: Matrix64, bias: Matrix64 | None) -> Moments:
        """The moments of x with targets z W + b, from those of features x and z, [x, z].

        Args:
            weight: W, [n, k]; half of the features are z.
            bias: b, [k]; None for zero.
        """
        size, targets = weight.shape
        moments = self.first(size)
        z_gram, z_sum = self.gram[size:, size:], self.x_sum[size:]
        offset = np.zeros(targets) if bias is None else bias
        moments.cross = self.gram[:size, size:] @ weight + np.outer(moments.x_sum, offset)
        summed = z_sum @ weight
        moments.y_sum = summed + self.total * offset
        moments.y_square = np.sum(weight * (z_gram @ weight), axis=0) + offset * (summed + moments.y_sum)
        return moments

    def centred(self) -> Centred:
        """Return the covariances."""
        total = self.total or 1.0
        x_mean, y_mean = self.x_sum / total, self.y_sum / total
        return Centred(
            self.gram / total - np.outer(x_mean, x_mean),
            self.cross / total - np.outer(x_mean, y_mean),
        )

    def less(self, weight: Matrix64) -> Moments:
        """The moments with the targets less x W."""
        moments = self.first(len(self.x_sum))
        moments.y_sum = self.y_sum - self.x_sum @ weight
        product = self.gram @ weight
        moments.cross = self.cross - product
        moments.y_square = self.y_square + np.sum(weight * (product - 2 * self.cross), axis=0)
        return moments

    def variance(self) -> float:
        """Weighted variance of the targets, summed over them."""
        total = self.total or 1.0
        mean = self.y_sum / total
        return float(self.y_square.sum() / total - mean @ mean)


@dataclass(frozen=True, eq=False)
class Products:
    """Products of some rows that are added to moments; see there."""

    count: int
    total: float
    gram: Array
    x_sum: Array
    cross: Array | None  # None without targets
    y_sum: Array | float  # zero without
    y_square: Array | float  # zero without

    @classmethod
    def of(cls, rows: Rows) -> Products:
        """Those of some rows."""
        x, y, weights = rows
        total = float(len(x)) if weights is None else float(weights.sum(dtype=np.float64))
        # The product of a matrix with itself takes half the work, so each factor gets the root of the weight.
        root = (np.ones(len(x)) if weights is None else np.sqrt(weights)).astype(x.dtype)
        x = x if weights is None else x * root[:, None]
        with np.errstate(over="ignore", invalid="ignore"):
            gram, x_sum = x.T @ x, root @ x
            if y is None:
                return cls(len(x), total, gram, x_sum, None, 0.0, 0.0).checked()
            y = y if weights is None else y * root[:, None]
            y_square = np.square(y).sum(axis=0, dtype=np.float64)
            return cls(len(x), total, gram, x_sum, x.T @ y, root @ y, y_square).checked()

    def checked(self) -> Products:
        """Themselves, if they are finite."""
        if not all(np.isfinite(part).all() for part in (self.gram, self.y_square)):
            raise NotFiniteError(
                "the model computes values on this data whose squares are too large to sum up"
            )
        return self


def gather(
    moments: Sequence[Moments], parts: Iterable[Sequence[Rows | None]], workers: Workers
) -> Sequence[Moments]:
    """Add rows to some moments, `AT_ONCE` of them or more at a time.

    Args:
        parts: rows for each of them, or None where a part has none. Either all have targets and weights or none.
    """

    def multiplied(stack: Sequence[Rows | None]) -> list[Products | None]:
        return [None if rows is None else Products.of(rows) for rows in stack]

    if any(len(item.x_sum) >= LARGE for item in moments):
        workers = Workers()
    for product in workers.each(multiplied, _stacked(parts)):
        for moment, products in zip(moments, product, strict=True):
            if products is not None:
                moment.take(products)
    return moments


def _stacked(parts: Iterable[Sequence[Rows | None]]) -> Iterator[Sequence[Rows | None]]:
    """The same rows in fewer parts."""
    waiting: list[Sequence[Rows | None]] = []
    count = 0
    for part in parts:
        waiting.append(part)
        count += max((len(rows[0]) for rows in part if rows is not None), default=0)
        if count >= AT_ONCE:
            yield [_one([rows for rows in each if rows is not None]) for each in zip(*waiting, strict=True)]
            waiting, count = [], 0
    if waiting:
        yield [_one([rows for rows in each if rows is not None]) for each in zip(*waiting, strict=True)]


def _one(parts: Sequence[Rows]) -> Rows | None:
    """Rows of several parts as one part."""
    if len(parts) < 2:
        return next(iter(parts), None)
    x, y, weights = zip(*parts, strict=True)
    return np.concatenate(x), _joined(y), _joined(weights)


def _joined(parts: Sequence[Array | None]) -> Array | None:
    there = [item for item in parts if item is not None]
    return np.concatenate(there) if there else None


@dataclass(frozen=True, eq=False)
class Centred:
    """The covariance of features [n, n], and their covariance with targets [n, k]."""

    covariance: Matrix64
    cross: Matrix64


LEAST_PULL, PULLS = 1e-8, 8
"""The pull from which stronger ones are tried where one is too weak for a solution, and how many of them."""


@dataclass(frozen=True, eq=False)
class Ridge:
    """Least squares pulled towards zero: argmin |x W - y|² + λ |W|², for any λ.

    λ is a strength times the mean variance of the features, so it means the same at every scale
    (Hoerl and Kennard 1970). What is pulled towards given weights is the change of these, y what they leave.
    """

    centred: Centred

    def solved(
        self, strength: float, columns: npt.NDArray[np.int_] | None = None, *, roughly: bool = False
    ) -> Matrix64:
        """The weights, [n, columns]; in single precision where they are rounded anyway."""
        wanted = slice(None) if columns is None else columns
        matrix, right = self._roughly if roughly else self._exactly
        for pull in (strength, *(max(strength, LEAST_PULL) * 100.0**power for power in range(1, PULLS))):
            # Where features hardly vary beside their means, rounding is most of their covariance.
            with contextlib.suppress(np.linalg.LinAlgError):
                return _solution(matrix, right[:, wanted], self._pull(pull)).astype(np.float64)
        return np.zeros_like(self.centred.cross[:, wanted])

    def tried(self, strength: float) -> npt.NDArray[np.float32]:
        """The change of the weights in single precision."""
        return _solution(*self._roughly, self._pull(strength))

    def _pull(self, strength: float) -> float:
        variances = np.diag(self.centred.covariance)
        # A direction in which nothing varies says nothing about the weights: they stay.
        least = 1e-10 * float(np.max(variances, initial=0.0))
        return max(strength * float(np.sum(variances)) / max(len(variances), 1), least, 1e-30)

    @functools.cached_property
    def _exactly(self) -> tuple[Array, Array]:
        return self._system(np.float64)

    @functools.cached_property
    def _roughly(self) -> tuple[Array, Array]:
        return self._system(np.float32)

    def _system(self, dtype: type[np.floating[Any]]) -> tuple[Array, Array]:
        return self.centred.covariance.astype(dtype), self.centred.cross.astype(dtype)


def _solution(matrix: Array, right: Array, pull: float) -> Array:
    """Solve (A + pull) x = b."""
    system = matrix.copy()
    system.flat[:: len(system) + 1] += pull
    factor = scipy.linalg.cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
    solution: Array = scipy.linalg.cho_solve(factor, right, check_finite=False)
    return solution


def _mapped(shape: tuple[int, ...]) -> Matrix64:
    """Return an array in a file without a name, which goes with the array."""
    size = math.prod(shape) * np.dtype(np.float64).itemsize
    with tempfile.TemporaryFile(prefix="onnxheadprune-") as file:
        if hasattr(os, "posix_fallocate"):  # a file with holes would end the process where the disk is full
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)
        return np.frombuffer(mmap.mmap(file.fileno(), size), np.float64).reshape(shape)
