"""The learning rate, by a short range test on data that no step sees (Smith 2017).

A test is a training in small: the rate rises and falls to nothing within it. At a steady rate a few steps look worse
than they are, since what the last of them stirred up has not settled, and far too small a rate would win.

Still a test cannot gain what a training gains. What steps stir up by the noise of their gradients settles within a
few hundred steps, and what they learn stays; so the best rate of a long training makes a short one somewhat worse
than no training at all. How much worse it may be is the one number here that was found by trying.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

WARM_UP = 0.1
"""Part of the training in which the rate rises."""


def share_of_rate(progress: float) -> float:
    """The share of the peak rate: a straight line up, then half a cosine down to nothing."""
    if progress < WARM_UP:
        return max(progress, 0.0) / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min((progress - WARM_UP) / (1 - WARM_UP), 1.0)))


RATES = (1.25e-5, 2.5e-5, 5e-5, 1e-4, 2e-4, 4e-4, 8e-4)
"""Learning rates to try, starting in the middle."""
STEPS = 20
"""Steps with each rate."""
BEARABLE = 0.15
"""By what share of it the loss may be larger after a test, if a training is long. Measured where the best rate of 300
steps is known: half of the heads of MiniLM, 1e-4 (8 % worse) and not 2e-4 (25 %); a quarter, 5e-5 (12 %) and not
1e-4 (50 %)."""
LONG = 300
"""Steps of a training that is long: what its steps stir up has settled by its end. Shorter ones bear less."""


def bearable(start: float, steps: float) -> float:
    """The largest loss after a test that a training of some steps makes good.

    Args:
        steps: of the training; one as short as the test makes nothing good.
    """
    return start * (1 + BEARABLE * min(max((steps - STEPS) / (LONG - STEPS), 0.0), 1.0))


def find_rate(
    tried: Callable[[float], float], limit: Callable[[], float], is_late: Callable[[], bool] = lambda: False
) -> tuple[float, Mapping[float, float]]:
    """The largest rate that a training can bear: it gains more with it than with the best of the short tests.

    Args:
        limit: the largest such loss that is bearable, as far as that is known after a test.
    """
    found: dict[float, float] = {}
    borne: list[float] = []

    def is_borne(rate: float) -> bool:
        if found and is_late():
            return False
        loss = tried(rate)
        found[rate] = loss if math.isfinite(loss) else math.inf
        if found[rate] < limit():
            borne.append(rate)
        return rate in borne

    first = len(RATES) // 2
    if is_borne(RATES[first]):
        larger = first + 1
        while larger < len(RATES) and is_borne(RATES[larger]):
            larger += 1
    else:
        smaller = first - 1
        while smaller >= 0 and not is_borne(RATES[smaller]):
            smaller -= 1
    return max(borne, default=min(found)), found
