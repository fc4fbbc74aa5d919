"""New weights onto the levels that a quantized matrix has: row by row, each row's error handed to the rows behind it.

Rounding to the nearest level is best for each weight, not for what the map gives. Frantar et al. 2023 (GPTQ) round one
input after the other and let the inputs that follow, as far as they go together with it on the data, make up for it.
Scales and zero points stay what they are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxheadprune.attention.levels import Grid
from onnxheadprune.selection.activations.moments import Moments

Matrix64 = npt.NDArray[np.float64]
DAMPING = 1e-2
"""Added to the covariance, relative to its mean diagonal."""
BLOCK = 64
"""Rows that are rounded before the rest is told."""


def on_grid(weight: Matrix64, moments: Moments, grid: Grid, *, has_bias: bool) -> Matrix64:
    """Weights that can be stored, near to given ones in what they make of the data.

    Args:
        weight: what is wanted, [in, out].
        moments: of the inputs.
        grid: what can be stored.
        has_bias: whether a bias takes the mean over.
    """
    covariance = moments.centred().covariance if has_bias else moments.gram / (moments.total or 1.0)
    size = len(covariance)
    damping = DAMPING * float(np.trace(covariance)) / max(size, 1) + 1e-30
    inverse = np.linalg.inv(covariance + damping * np.eye(size))
    # Row i of the factor says how the rows behind i answer to an error in i, those before being done.
    factor = np.linalg.cholesky(inverse).T
    left, found = weight.copy(), np.empty_like(weight)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        errors = np.empty((stop - start, weight.shape[1]))
        for row in range(start, stop):
            found[row] = grid.row(row).nearest(left[row])
            errors[row - start] = (left[row] - found[row]) / factor[row, row]
            left[row + 1 : stop] -= np.outer(factor[row, row + 1 : stop], errors[row - start])
        left[stop:] -= factor[start:stop, stop:].T @ errors
    return found
