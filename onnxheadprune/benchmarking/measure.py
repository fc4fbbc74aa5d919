"""The request of a benchmark, its timing, and from latencies to a verdict.

Latency on a busy machine drifts by more than a cut saves, and two sessions of one model differ by a few per
cent that no repetition averages away: where their memory lies, which threads serve them. Therefore:

* Models take turns in short blocks, in random order, in one process, and a ratio is formed *within* each block: a slow
  second slows both sides.
* All sessions are opened anew in several rounds. The median of a round is one sample, as a fresh process is to pyperf,
  and the interval is Student's over these samples: neither neighbors nor the runs of one session are taken for
  independent.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.typed_json import JsonObject
from onnxheadprune.settings.calls import BenchCall
from onnxheadprune.settings.measuring import Timing

ROUNDS = 8
"""Number of times that all sessions are opened anew: the luck of one session is not that of the next."""
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
Floats: TypeAlias = npt.NDArray[np.float64]
Verdict: TypeAlias = Literal["faster", "no measurable difference", "slower"]
NO_DIFFERENCE: Final = "no measurable difference"
CONFIDENCE = 0.995
STUDENT = 4.029
"""Student's t of that confidence, two-sided, for the means of `ROUNDS` samples."""


def settings_of(given: BenchCall, *, cuda_graph: bool) -> dict[str, Any]:
    """JSON-ready data of how it is measured; sizes and provider have fields of their own in the document."""
    return {
        "rounds": ROUNDS,
        "repeats": given.repeats,
        "time_budget_seconds": given.time_budget,
        "seed": given.seed,
        "threads": given.threads,
        "cuda_graph": cuda_graph,
        "confidence": CONFIDENCE,
    }


class Runner(Protocol):
    """Something that can be timed."""

    def run(self) -> None:
        """One run, finished when it returns."""


@dataclass
class Series:
    """Seconds of one model at one grid point."""

    runs: list[float] = field(default_factory=list)  # every timed run
    blocks: list[Floats] = field(default_factory=list)  # the median of each block, one array per round
    settled: bool = True  # whether every warm-up settled

    def percentiles(self) -> dict[str, Any]:
        """Percentiles of the runs, and their mean and number."""
        p50, p90, p99 = (float(item) for item in np.percentile(self.runs, [50, 90, 99]))
        return {"p50": p50, "p90": p90, "p99": p99, "mean": float(np.mean(self.runs)), "runs": len(self.runs)}


def warm_up(runner: Runner, clock: Callable[[], float] = time.perf_counter) -> tuple[float, bool]:
    """Run until the median of a window is no shorter than that of the window before.

    A session gets faster while it warms up; what goes up and down afterwards is noise.
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


@one_line()
@dataclass(frozen=True)
class Ratio(JsonObject):
    """Latency of one model over that of another.

    Attributes:
        value: the mean of the rounds.
        low: lower end of its confidence interval.
        high: upper end of it.
    """

    value: float
    low: float
    high: float

    @classmethod
    def paired(cls, model: Sequence[Floats], reference: Sequence[Floats]) -> Ratio:
        """The latency ratio with its interval.

        Args:
            model: seconds per block, one array per round of sessions.
            reference: the same of the other model; block `i` of both ran one after the other.
        """
        return cls(*interval([own / other for own, other in zip(model, reference, strict=True)]))

    @property
    def verdict(self) -> Verdict:
        """Faster or slower only if the interval does not contain 1."""
        if self.high < 1:
            return "faster"
        return "slower" if self.low > 1 else NO_DIFFERENCE


def interval(rounds: Sequence[Floats]) -> tuple[float, float, float]:
    """The geometric mean of the medians of rounds, and the ends of its confidence interval."""
    medians = [math.log(np.median(item)) for item in rounds]
    center, off = float(np.mean(medians)), STUDENT * float(np.std(medians, ddof=1)) / math.sqrt(len(medians))
    return math.exp(center), math.exp(center - off), math.exp(center + off)
