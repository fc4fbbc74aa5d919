"""Timing: models take turns in short blocks, in random order, in one process."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from onnxheadprune.benchmarking.statistics import Floats
from onnxheadprune.settings.measuring import Timing

ROUNDS = 5
"""How often all sessions are opened anew: what one session has by luck, the next one has not."""
LEAST_BLOCKS, MOST_BLOCKS = 4, 100
"""Blocks per round."""
SLICE = 0.012
"""Seconds that one model runs before the next one has its turn."""
MOST_RUNS = 64
"""Runs per slice, for models that take microseconds."""
WINDOW = 5
"""Runs whose median the warm-up compares with that of the runs before."""
SLOW, SLOW_WINDOW = 0.1, 1
"""The same for models whose run takes at least this many seconds."""
SETTLED = 0.03
WARM_UP = 2.0
"""Seconds after which a warm-up ends in any case."""


class Runner(Protocol):
    """Something that can be timed."""

    def run(self) -> None:
        """One run, finished when it returns."""


@dataclass
class Series:
    """Seconds of one model at one grid point.

    Attributes:
        runs: every timed run.
        blocks: the median of each block, one array per round.
        settled: whether every warm-up settled.
    """

    runs: list[float] = field(default_factory=list)
    blocks: list[Floats] = field(default_factory=list)
    settled: bool = True


def warm_up(runner: Runner, clock: Callable[[], float] = time.perf_counter) -> tuple[float, bool]:
    """Runs until the median of a window is no shorter than that of the window before.

    A session gets faster while it warms up; what goes up and down afterwards is noise.

    Returns:
        The last median in seconds, and whether it settled.
    """
    begin = clock()
    # Where one run takes long, what warms up (pages, caches, clocks) has warmed up within it.
    first = _timed(runner, clock)
    window = WINDOW if first < SLOW else SLOW_WINDOW
    previous = None if first < SLOW else first
    while True:
        median = float(np.median([_timed(runner, clock) for _ in range(window)]))
        if previous is not None and median >= (1 - SETTLED) * previous:
            return median, True
        if clock() - begin > max(WARM_UP, 5 * first):
            return median, False
        previous = median


def measure_round(
    runners: Sequence[Runner],
    series: Sequence[Series],
    timing: Timing,
    generator: np.random.Generator,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """One round of blocks at one grid point; what is found is added to `series`."""
    counts = []
    for runner, record in zip(runners, series, strict=True):
        median, settled = warm_up(runner, clock)
        record.settled &= settled
        counts.append(int(np.clip(SLICE / max(median, 1e-9), 1, MOST_RUNS)))
    medians: list[list[float]] = [[] for _ in runners]
    begin = clock()
    with _no_collector():
        while not _enough(len(medians[0]), clock() - begin, timing):
            for position in generator.permutation(len(runners)):
                found = _slice(runners[position], counts[position], clock)
                series[position].runs.extend(found)
                medians[position].append(float(np.median(found)))
    for record, values in zip(series, medians, strict=True):
        record.blocks.append(np.array(values))


def _enough(blocks: int, elapsed: float, timing: Timing) -> bool:
    if timing.repeats is not None:
        return blocks >= -(-timing.repeats // ROUNDS)
    return blocks >= MOST_BLOCKS or (blocks >= LEAST_BLOCKS and elapsed > timing.time_budget / ROUNDS)


def _slice(runner: Runner, count: int, clock: Callable[[], float]) -> list[float]:
    """One turn of a model. Short runs would pay for the caches that the model before has filled, so one goes first."""
    if count > 1:
        runner.run()
    return [_timed(runner, clock) for _ in range(count)]


def _timed(runner: Runner, clock: Callable[[], float]) -> float:
    start = clock()
    runner.run()
    return clock() - start


@contextmanager
def _no_collector() -> Iterator[None]:
    """Python's garbage collector would stop single runs."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def summary(series: Series) -> dict[str, Any]:
    """Percentiles of the runs."""
    p50, p90, p99 = (float(item) for item in np.percentile(series.runs, [50, 90, 99]))
    return {"p50": p50, "p90": p90, "p99": p99, "mean": float(np.mean(series.runs)), "runs": len(series.runs)}
