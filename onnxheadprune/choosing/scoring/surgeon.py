"""Optimal brain surgeon on one projection: what channels are worth once the others make up for them.

Hassibi and Stork 1993 for the algebra; OSSCAR (Meng et al. 2024) for neurons, SlimGPT (Ling et al. 2024) for heads as
groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Matrix64 = npt.NDArray[np.float64]
DAMPING = 1e-2
"""Added to the covariance, relative to its mean diagonal: what few data say about weak directions is noise."""


class Surgeon:
    """A projection whose channels go, one group after the other, the rest refitted each time.

    Nothing is changed in place, so a shallow copy goes on by itself.
    """

    def __init__(self, covariance: Matrix64, weights: Matrix64) -> None:
        size = len(covariance)
        damping = DAMPING * float(np.trace(covariance)) / max(size, 1) + 1e-30
        self._inverse = np.linalg.inv(covariance + damping * np.eye(size))
        self._weights = weights.copy()
        self.left = np.arange(size)
        """The channels that are still there."""
        self.variance = float(np.sum(weights * (covariance @ weights)))
        self._damping = damping
        self._all = weights

    def error(self, channels: Sequence[int]) -> float:
        """Return what the output loses if these channels go too."""
        at = np.searchsorted(self.left, channels)
        block = self._weights[at]
        lost = float(np.sum(block * np.linalg.solve(self._inverse[np.ix_(at, at)], block)))
        # The damping also punishes the mere length of the weights that go; that part is no error.
        return max(lost - self._damping * float(np.square(self._all[list(channels)]).sum()), 0.0)

    def errors(self) -> Matrix64:
        """Return what the output loses if one more channel goes, for each that is left."""
        lost = np.square(self._weights).sum(axis=1) / np.diag(self._inverse)
        bare = self._damping * np.square(self._all[self.left]).sum(axis=1)
        return np.asarray(np.maximum(lost - bare, 0.0), dtype=np.float64)

    def remove(self, channels: Sequence[int]) -> None:
        """Takes channels away for good; the weights of the others take over what they can."""
        at = np.searchsorted(self.left, channels)
        rest = np.setdiff1d(np.arange(len(self.left)), at)
        gain = np.linalg.solve(self._inverse[np.ix_(at, at)], self._inverse[np.ix_(at, rest)]).T
        self._weights = self._weights[rest] - gain @ self._weights[at]
        self._inverse = self._inverse[np.ix_(rest, rest)] - gain @ self._inverse[np.ix_(at, rest)]
        self.left = self.left[rest]
