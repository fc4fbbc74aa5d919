"""The request of a benchmark, its timing, and from latencies to a verdict.

Latency on a busy machine drifts by more than a cut saves, and two sessions of one model differ by a few per
cent that no repetition averages away: where their memory lies, which threads serve them. So three things guard
the verdict:

* Models take turns in short blocks, in random order, in one process, and a ratio is formed *within* each block: a slow
  second slows both sides.
* All sessions are opened anew in several rounds. The interval comes from a bootstrap that draws rounds first,
  then circular blocks within them (Politis and Romano 1992), so neither neighbours nor the runs of one
  session are taken for independent.
* A second session of the first model is measured like any other model. What these twins differ by from round
  to round is the noise floor by which each interval is widened; both together are the reference.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, Protocol, Self, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from onnxheadprune.errors import UsageError
from onnxheadprune.model.display import one_line
from onnxheadprune.model.typed_json import JsonObject
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.providers import AUTO
from onnxheadprune.settings.calls import BenchCall
from onnxheadprune.settings.measuring import Benching, Timing

ROUNDS = 5
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
RESAMPLES = 1000
CONFIDENCE = 0.95
LEAST_FLOOR = 0.01
"""Differences below 1 % are not told apart, however quiet the machine was: code alignment alone makes them."""


class BenchSettings(TypedDict, total=False):
    """Settings of `benchmark` by name, where somebody else says where it runs; see there."""

    batch: tuple[int, ...] | None
    seq: tuple[int, ...] | None
    past: tuple[int, ...] | None
    dims: Mapping[str, int]
    repeats: int | None
    time_budget: float
    seed: int
    threads: int | None
    cuda_graph: bool
    memory: bool


@dataclass(frozen=True, kw_only=True)
class BenchRequest(Benching):
    """All that one benchmark is asked for, but for the models."""

    # "auto", "cpu", "cuda" or another execution provider's name; or one that is resolved
    provider: str | Provider = AUTO
    seed: int = 0  # of the inputs, the order of measurement and the bootstrap
    min_speedup: float | None = None  # the limit for every other model at every size

    @classmethod
    def of(cls, given: BenchCall) -> Self:
        """The request of a call."""
        return cls(**{item.name: getattr(given, item.name) for item in fields(cls)})

    def __post_init__(self) -> None:
        if self.repeats is not None and self.repeats < ROUNDS:
            raise UsageError(f"repeats are at least {ROUNDS}: one block in each of {ROUNDS} rounds")
        if self.time_budget <= 0:
            raise UsageError("a time budget is a number of seconds above 0")
        if self.seed < 0:
            raise UsageError(f"a seed is a number from 0 up, not {self.seed}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data of how it is measured; sizes and provider have fields of their own in the document."""
        return {
            "rounds": ROUNDS,
            "repeats": self.repeats,
            "time_budget_seconds": self.time_budget,
            "seed": self.seed,
            "threads": self.threads,
            "cuda_graph": self.cuda_graph,
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

    def interval(self, seed: int = 0) -> tuple[float, float]:
        """Bootstrap interval of the median latency in seconds."""
        return _interval(self.blocks, seed)


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
        value: the median of the ratios within blocks.
        low: lower end of the bootstrap interval.
        high: upper end of it.
    """

    value: float
    low: float
    high: float

    @classmethod
    def paired(cls, model: Sequence[Floats], *references: Sequence[Floats], seed: int = 0) -> Ratio:
        """The latency ratio with its interval.

        Args:
            model: seconds per block, one array per round of sessions.
            references: the same for one or more sessions of the other model, whose geometric mean is the
                reference; block `i` of all ran one after the other.
            seed: of the bootstrap.
        """
        logs = [
            np.log(own) - np.mean([np.log(item) for item in others], axis=0)
            for own, *others in zip(model, *references, strict=True)
        ]
        low, high = _interval(logs, seed)
        value = float(np.median(np.concatenate(logs)))
        return cls(math.exp(value), math.exp(min(low, value)), math.exp(max(high, value)))

    def judged(self, floor: float) -> Verdict:
        """Faster or slower only if the interval, widened by the noise floor, does not contain 1."""
        if math.log(self.high) + floor < 0:
            return "faster"
        if math.log(self.low) - floor > 0:
            return "slower"
        return NO_DIFFERENCE


def _interval(rounds: Sequence[Floats], seed: int) -> tuple[float, float]:
    """Bootstrap interval of a median: rounds are drawn first, then circular blocks within each."""
    generator = np.random.default_rng(seed)
    count = max(len(item) for item in rounds)
    # [round, resample, block], then as many rounds as there were, drawn with replacement.
    resampled = np.stack([_resampled(item, count, generator) for item in rounds])
    drawn = generator.integers(0, len(rounds), (len(rounds), RESAMPLES))
    picked = resampled[drawn, np.arange(RESAMPLES)]
    medians = np.median(picked.transpose(1, 0, 2).reshape(RESAMPLES, -1), axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return float(low), float(high)


def _resampled(values: Floats, count: int, generator: np.random.Generator) -> Floats:
    """`[RESAMPLES, count]`: circular blocks of about the cube root of the length."""
    length = max(1, round(len(values) ** (1 / 3)))
    pieces = -(-count // length)
    starts = generator.integers(0, len(values), (RESAMPLES, pieces))
    index = (starts[:, :, None] + np.arange(length)).reshape(RESAMPLES, -1)[:, :count] % len(values)
    picked: Floats = values[index]
    return picked


def noise_floor(twin: Sequence[Floats], reference: Sequence[Floats]) -> float:
    """Return how far two sessions of one model lie apart, as a difference of logarithms.

    Twice the standard error of the A/A comparison over all rounds, whose true value is known to be zero; never
    less than 1 %.
    """
    rounds = [
        float(np.median(np.log(own) - np.log(other))) for own, other in zip(twin, reference, strict=True)
    ]
    return max(LEAST_FLOOR, 2 * math.sqrt(float(np.mean(np.square(rounds))) / len(rounds)))
