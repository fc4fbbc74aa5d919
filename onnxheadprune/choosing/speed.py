"""The speed of cuts, measured on this machine, and the smallest one that is fast enough.

A speed-up is what `bench` calls one (`benchmarking.SpeedUp`), so a wish is met only by what `--min-speedup` would pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from onnxheadprune.benchmarking.request import BenchSettings
from onnxheadprune.benchmarking.result import SpeedUp
from onnxheadprune.benchmarking.runner import bench
from onnxheadprune.model.load import LoadedModel, stored_bytes
from onnxheadprune.runtime import Provider

SECONDS = 4.0
"""Time to measure one cut beside the original, per grid point."""
POINTS = 4
"""Sizes of inputs where the user names none, at most: two batches of whole sequences, and of single new tokens."""
TOGETHER = 8
"""Cuts that are measured beside one original. It runs twice (the A/A run), so ten models take turns in place of 24."""
TOGETHER_BYTES = 2**28
"""Weights that models measured together may have: each has a session of its own."""

Maker = Callable[[], LoadedModel]


def speedups(
    original: LoadedModel,
    cuts: Sequence[Maker],
    provider: Provider,
    sizes: BenchSettings | None = None,
    seconds: float = math.inf,
) -> Iterator[SpeedUp]:
    """The speed-up of each cut, measured beside the original.

    Args:
        original: the reference.
        cuts: functions that make the cuts; large ones are not all held at once.
        provider: where to run.
        sizes: settings of `benchmark`: sizes of the inputs, repeats, a time budget.
        seconds: for all cuts; fewer than the least blocks of a measurement take are not kept to.

    Raises:
        UsageError: if a size does not fit the model.
        ModelError: if a cut does not run.
    """
    room = max(1, min(TOGETHER, TOGETHER_BYTES // max(1, stored_bytes(original.proto))))
    for first in range(0, len(cuts), room):
        some = [make() for make in cuts[first : first + room]]
        budget = min(SECONDS * (2 + len(some)) / 3, seconds * len(some) / len(cuts) / POINTS)
        settings: BenchSettings = {"time_budget": budget, "memory": False, **(sizes or {})}
        measured = bench(original, *some, provider=provider, **settings)
        yield from (measured.speedup(index) for index in range(1, len(some) + 1))


def smallest_reaching(most: int, wanted: float, speed_of: Callable[[int], float | None]) -> int:
    """The smallest count whose cut is fast enough, where that of `most` is.

    Latency falls about evenly with the heads that go, so a line through the ends of what is left to search tells
    where to look; every third look is in the middle, so that a crooked curve costs no more than twice a bisection.

    Args:
        most: the largest count.
        wanted: the speed-up.
        speed_of: measures a count; None where no cut is so small.
    """
    high, above = most, 1 / (speed_of(most) or wanted)
    low, below = 0, 1.0
    looks = 0
    while high - low > 1:
        looks += 1
        share = (below - 1 / wanted) / (below - above) if below > above else 0.5
        guess = low + (high - low) * (0.5 if looks % 3 == 0 else share)
        count = min(max(math.ceil(guess), low + 1), high - 1)
        speed = speed_of(count)
        if speed is not None and speed >= wanted:
            high, above = count, 1 / speed
        else:
            low, below = count, below if speed is None else 1 / speed
    return high
