"""The learning rate schedule."""

from __future__ import annotations

import math

WARM_UP = 0.1
"""Part of the training in which the rate rises."""


def share_of_rate(progress: float) -> float:
    """The share of the peak rate: a straight line up, then half a cosine down to nothing.

    Args:
        progress: 0 at the first step, 1 at the end.
    """
    if progress < WARM_UP:
        return max(progress, 0.0) / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min((progress - WARM_UP) / (1 - WARM_UP), 1.0)))
