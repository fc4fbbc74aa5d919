"""One linear map, refitted: least squares pulled towards the old weights, the pull chosen on held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxheadprune.selection.activations.moments import Centred, Moments, ridge

Matrix64 = npt.NDArray[np.float64]
STRENGTHS = (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Ridge strengths to choose from, relative to the mean variance of the features."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A refitted map.

    Attributes:
        weight: [in, out].
        bias: [out], None where the map has none.
        strength: the median ridge that was chosen, None if nothing moved but the bias.
        before: held-out mean square error with the old weights.
        after: the same with the new ones, learned without the held-out rows.
    """

    weight: Matrix64
    bias: Matrix64 | None
    strength: float | None
    before: float
    after: float


def fit(
    learned: Moments,
    held: Moments,
    weight: Matrix64,
    bias: Matrix64 | None,
    strengths: Sequence[float] = STRENGTHS,
) -> Fit:
    """The weights near `weight` with the least held-out error.

    Least squares treats every output by itself, so the strength is chosen for each output by itself, on the
    held-out rows. The final weights learn from all rows.

    Args:
        learned: moments of inputs and targets to learn from.
        held: moments of other rows, to choose the strengths with.
        weight: the old weights, [in, out].
        bias: the old bias, [out]; None for a map that has none.
        strengths: ridge strengths to try.
    """
    before = held.errors(weight, bias)
    # First choice: nothing moves. Second: the bias alone. Then every strength.
    choices = [before, held.errors(weight, _shift(learned, weight, bias))]
    choices += [held.errors(*_solve(learned, weight, bias, strength)) for strength in strengths]
    chosen = np.argmin(choices, axis=0)
    both = learned.merged(held)
    new, offset = weight.copy(), None if bias is None else bias.copy()
    for choice in np.unique(chosen[chosen > 0]):
        columns = np.flatnonzero(chosen == choice)
        found = (
            (weight, _shift(both, weight, bias))
            if choice == 1
            else _solve(both, weight, bias, strengths[choice - 2])
        )
        new[:, columns] = found[0][:, columns]
        if offset is not None and found[1] is not None:
            offset[columns] = found[1][columns]
    used = [strengths[choice - 2] for choice in chosen if choice > 1]
    after = float(np.min(choices, axis=0).sum())
    return Fit(new, offset, float(np.median(used)) if used else None, float(before.sum()), after)


def _solve(
    moments: Moments, weight: Matrix64, bias: Matrix64 | None, strength: float
) -> tuple[Matrix64, Matrix64 | None]:
    if bias is not None:
        new = ridge(moments.centred(), weight, strength)
        return new, _shift(moments, new, bias)
    # Without a bias the mean has to go through the weights as well.
    total = moments.total or 1.0
    raw = Centred(moments.gram / total, moments.cross / total, moments.x_sum * 0, moments.y_sum * 0)
    return ridge(raw, weight, strength), None


def _shift(moments: Moments, weight: Matrix64, bias: Matrix64 | None) -> Matrix64 | None:
    """The bias with which the mean is right."""
    total = moments.total or 1.0
    return None if bias is None else (moments.y_sum - moments.x_sum @ weight) / total
