"""The learning rate, by a short range test on data that no step sees (Smith 2017).

A test is a training in small: the rate rises and falls to nothing within it. At a steady rate a few steps look worse
than they are, since what the last of them stirred up has not settled, and far too small a rate would win.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from onnxheadprune.selection.recovery.schedule import share_of_rate

RATES = (1.25e-5, 2.5e-5, 5e-5, 1e-4, 2e-4, 4e-4, 8e-4)
FIRST = 1e-4
"""Where the search begins."""
STEPS = 20
"""Steps with each rate."""


def share_in_test(step: int) -> float:
    """The share of a rate in step `step` of a test, counted from 0."""
    return share_of_rate((step + 1) / (STEPS + 1))


def find_rate(
    tried: Callable[[float], float], start: float, is_late: Callable[[], bool] = lambda: False
) -> tuple[float, Mapping[float, float]]:
    """The largest rate that a short training gains with; a long one gains more with it than with the best of the short.

    Args:
        tried: the held-out loss after a test with a rate.
        start: the held-out loss before.
        is_late: whether there is no time for another test.

    Returns:
        The rate, and the loss of each that was tried.
    """
    found: dict[float, float] = {}

    def gains(rate: float) -> bool:
        if found and is_late():
            return False
        loss = tried(rate)
        found[rate] = loss if math.isfinite(loss) else math.inf
        return found[rate] < start

    first = RATES.index(FIRST) if FIRST in RATES else 0
    if gains(RATES[first]):
        larger = first + 1
        while larger < len(RATES) and gains(RATES[larger]):
            larger += 1
    else:
        smaller = first - 1
        while smaller >= 0 and not gains(RATES[smaller]):
            smaller -= 1
    gaining = [rate for rate, loss in found.items() if loss < start]
    return max(gaining, default=min(found)), found
