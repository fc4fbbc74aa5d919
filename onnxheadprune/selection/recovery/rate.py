"""The learning rate, by a short range test: a few steps with each, judged on data that no step sees (Smith 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

RATES = (2.5e-5, 5e-5, 1e-4, 2e-4, 4e-4, 8e-4)
STEPS = 12
"""Steps with each rate, the first ones with a part of it."""
RISE = 4


def warmed(step: int) -> float:
    """The share of a rate in step `step` of a test, counted from 0."""
    return min((step + 1) / RISE, 1.0)


def find_rate(tried: Callable[[float], float]) -> tuple[float, Mapping[float, float]]:
    """The rate with the least held-out loss after a few steps.

    Losses fall up to some rate and rise behind it, so what comes after two worse rates is not tried.

    Args:
        tried: the loss after a test with a rate.

    Returns:
        The rate, and the loss of each that was tried.
    """
    found: dict[float, float] = {}
    for rate in RATES:
        loss = tried(rate)
        found[rate] = loss if math.isfinite(loss) else math.inf
        best = min(found, key=lambda item: found[item])
        if len(found) - list(found).index(best) > 2:
            break
    return min(found, key=lambda item: found[item]), found
