"""The savings of a site that loses units: operations, which rise evenly, or time, which is measured at a few widths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Savings:
    """A curve through points.

    Attributes:
        units: how many are gone at each point; rising, 0 first.
        saved: what that saves; never falling, 0 first.
    """

    units: tuple[float, ...]
    saved: tuple[float, ...]

    def of(self, count: int) -> float:
        """Return what `count` units less save."""
        return float(np.interp(count, self.units, self.saved))


def evenly(units: int, each: float) -> Savings:
    """A curve on which every unit saves the same."""
    return Savings((0, units), (0.0, units * each))
