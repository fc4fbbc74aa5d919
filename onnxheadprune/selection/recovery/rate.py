"""The learning rate, by a short range test: a few steps with each, judged on data that no step sees (Smith 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

RATES = (1.25e-5, 2.5e-5, 5e-5, 1e-4, 2e-4, 4e-4, 8e-4)
FIRST = 1e-4
"""Where the search begins."""
STEPS = 12
"""Steps with each rate, the first ones with a part of it."""
RISE = 4


def warmed(step: int) -> float:
    """The share of a rate in step `step` of a test, counted from 0."""
    return min((step + 1) / RISE, 1.0)


def find_rate(
    tried: Callable[[float], float], is_late: Callable[[], bool] = lambda: False
) -> tuple[float, Mapping[float, float]]:
    """The rate with the least held-out loss after a few steps.

    Losses fall up to some rate and rise behind it, so the search goes on in the direction in which they fall.

    Args:
        tried: the loss after a test with a rate.
        is_late: whether there is no time for another test.

    Returns:
        The rate, and the loss of each that was tried.
    """
    found: dict[float, float] = {}

    def is_better(rate: float) -> bool:
        if found and is_late():
            return False
        loss = tried(rate)
        least = min(found.values(), default=math.inf)
        found[rate] = loss if math.isfinite(loss) else math.inf
        return found[rate] < least

    first = min(range(len(RATES)), key=lambda number: abs(math.log(RATES[number] / FIRST)))
    is_better(RATES[first])
    up = first + 1
    while up < len(RATES) and is_better(RATES[up]):
        up += 1
    down = first - 1
    while up == first + 1 and down >= 0 and is_better(RATES[down]):
        down -= 1
    return min(found, key=lambda rate: found[rate]), found
