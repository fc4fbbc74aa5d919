"""The verdict on simulated latencies: silent on noise, however bad, and awake at 10 %."""

from __future__ import annotations

import numpy as np
import pytest

from onnxheadprune import Ratio
from onnxheadprune.benchmarking.measure import ROUNDS, Floats

BLOCKS, TIMES = 40, 1000


def simulated(
    generator: np.random.Generator, speeds: tuple[float, ...], jitter: float, luck: float
) -> list[list[Floats]]:
    """`[model][round]` seconds per block on a bad machine.

    Args:
        generator: of the noise.
        speeds: true latency of each model.
        jitter: noise of a single block; one block in ten is interrupted and takes up to twice as long.
        luck: what a session has for all of its blocks.
    """
    series: list[list[Floats]] = [[] for _ in speeds]
    for _ in range(ROUNDS):
        # The drift alone moves latencies by half within a round.
        drift = np.exp(np.cumsum(generator.normal(0, 0.05, BLOCKS)))
        for own, speed in zip(series, speeds, strict=True):
            stops = np.where(generator.random(BLOCKS) < 0.1, 1 + generator.random(BLOCKS), 1)
            noise = np.exp(generator.normal(0, jitter, BLOCKS) + generator.normal(0, luck))
            own.append(speed * drift * stops * noise)
    return series


def ratios(speed: float, jitter: float, luck: float) -> list[Ratio]:
    """The measurements of so many benchmarks of a model that takes `speed` times as long as the first."""
    generator = np.random.default_rng(0)
    pairs = (simulated(generator, (1.0, speed), jitter, luck) for _ in range(TIMES))
    return [Ratio.paired(other, reference) for reference, other in pairs]


def share(verdict: str, speed: float, jitter: float, luck: float) -> float:
    """The share of benchmarks with a verdict."""
    return sum(item.verdict == verdict for item in ratios(speed, jitter, luck)) / TIMES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("jitter", "luck"), [(0.002, 0.0), (0.05, 0.0), (0.05, 0.01), (0.02, 0.03), (0.1, 0.05), (0.3, 0.0)]
)
def test_a_model_against_itself_makes_no_difference(jitter: float, luck: float) -> None:
    assert share("no measurable difference", 1.0, jitter, luck) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(
    ("jitter", "luck"), [(0.002, 0.0), (0.02, 0.0), (0.05, 0.01), (0.02, 0.02), (0.02, 0.03)]
)
def test_ten_per_cent_are_seen(jitter: float, luck: float) -> None:
    assert share("faster", 0.9, jitter, luck) >= 0.95
    assert share("slower", 1.11, jitter, luck) >= 0.95


@pytest.mark.slow
def test_the_interval_holds_the_truth() -> None:
    found = ratios(0.8, 0.1, 0.02)
    assert all(item.low <= item.value <= item.high for item in found)
    assert sum(item.low <= 0.8 <= item.high for item in found) >= 0.99 * TIMES


def test_a_ratio_is_the_mean_of_the_rounds() -> None:
    """Within a round the median counts, so that an interruption does not."""
    even = [np.array([1.0, 1.0, 1.0])] * 2
    ratio = Ratio.paired([np.array([0.5, 0.5, 9.0]), np.array([2.0, 0.1, 2.0])], even)
    assert ratio.value == pytest.approx(1.0) and ratio.low < 0.5 and ratio.high > 2
    assert Ratio.paired(even, even) == Ratio(1.0, 1.0, 1.0)


def test_a_verdict_needs_an_interval_without_one() -> None:
    verdicts = [Ratio(value, value - 0.02, value + 0.02).verdict for value in (0.95, 0.99, 1.05)]
    assert verdicts == ["faster", "no measurable difference", "slower"]
