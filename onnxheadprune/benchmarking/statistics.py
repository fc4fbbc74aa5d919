"""From latencies to a verdict.

Latency on a busy machine drifts by more than a cut saves, and two sessions of one model differ by a few per
cent that no repetition averages away: where their memory lies, which threads serve them. So three things guard
the verdict:

* Models take turns in short blocks, and a ratio is formed *within* each block: a slow second slows both sides.
* All sessions are opened anew in several rounds. The interval comes from a bootstrap that draws rounds first,
  then circular blocks within them (Politis and Romano 1992), so neither neighbours nor the runs of one
  session are taken for independent.
* A second session of the first model is measured like any other model. What these twins differ by from round
  to round is the noise floor by which each interval is widened; both together are the reference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxheadprune.model.one_line import one_line

Floats: TypeAlias = npt.NDArray[np.float64]
Verdict: TypeAlias = Literal["faster", "no measurable difference", "slower"]

NO_DIFFERENCE: Final = "no measurable difference"
RESAMPLES = 1000
CONFIDENCE = 0.95
LEAST_FLOOR = 0.01
"""Differences below 1 % are not told apart, however quiet the machine was: code alignment alone makes them."""


@one_line()
@dataclass(frozen=True)
class Ratio:
    """Latency of one model over that of another.

    Attributes:
        value: the median of the ratios within blocks.
        low: lower end of the bootstrap interval.
        high: upper end of it.
    """

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)


def paired_ratio(model: Sequence[Floats], *references: Sequence[Floats], seed: int = 0) -> Ratio:
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
    return Ratio(math.exp(value), math.exp(min(low, value)), math.exp(max(high, value)))


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


def judge(ratio: Ratio, floor: float) -> Verdict:
    """Faster or slower only if the interval, widened by the noise floor, does not contain 1."""
    if math.log(ratio.high) + floor < 0:
        return "faster"
    if math.log(ratio.low) - floor > 0:
        return "slower"
    return NO_DIFFERENCE


def median_interval(blocks: Sequence[Floats], seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of a median latency in seconds, blocks as in `paired_ratio`."""
    return _interval(blocks, seed)
