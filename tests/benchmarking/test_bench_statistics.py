"""The verdict on simulated latencies: silent on noise, however bad, and awake at 10 %."""

from __future__ import annotations

import numpy as np
import pytest

from onnxheadprune import Ratio
from onnxheadprune.benchmarking.measure import LEAST_FLOOR, Floats, Series, noise_floor

ROUNDS, BLOCKS = 5, 40


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
        drift = np.exp(np.cumsum(generator.normal(0, 0.05, BLOCKS)))
        for own, speed in zip(series, speeds, strict=True):
            stops = np.where(generator.random(BLOCKS) < 0.1, 1 + generator.random(BLOCKS), 1)
            noise = np.exp(generator.normal(0, jitter, BLOCKS) + generator.normal(0, luck))
            own.append(speed * drift * stops * noise)
    return series


def verdicts(speed: float, jitter: float, luck: float, times: int = 100) -> list[str]:
    found = []
    for seed in range(times):
        generator = np.random.default_rng(seed)
        reference, other, twin = simulated(generator, (1.0, speed, 1.0), jitter, luck)
        found.append(Ratio.paired(other, reference, twin).judged(noise_floor(twin, reference)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("jitter", "luck"), [(0.002, 0.0), (0.05, 0.0), (0.3, 0.0), (0.02, 0.03), (0.1, 0.05)]
)
def test_a_model_against_itself_makes_no_difference(jitter: float, luck: float) -> None:
    """The drift alone moves latencies by half within a round."""
    wrong = [verdict for verdict in verdicts(1.0, jitter, luck) if verdict != "no measurable difference"]
    assert len(wrong) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("jitter", "luck"), [(0.002, 0.0), (0.05, 0.01), (0.02, 0.02)])
def test_ten_per_cent_are_seen(jitter: float, luck: float) -> None:
    assert verdicts(0.9, jitter, luck).count("faster") >= 95
    assert verdicts(1.11, jitter, luck).count("slower") >= 95


@pytest.mark.slow
def test_the_interval_holds_the_truth() -> None:
    hits = 0
    for seed in range(100):
        reference, other = simulated(np.random.default_rng(seed), (1.0, 0.8), 0.1, 0.0)
        ratio = Ratio.paired(other, reference)
        assert ratio.low <= ratio.value <= ratio.high
        hits += ratio.low <= 0.8 <= ratio.high
    assert hits >= 90


def test_the_floor_is_what_twins_differ_by() -> None:
    flat = [np.ones(10)] * 4
    assert noise_floor(flat, flat) == LEAST_FLOOR
    apart = [np.full(10, 1.2), np.full(10, 1 / 1.2), np.full(10, 1.2), np.full(10, 1 / 1.2)]
    assert noise_floor(apart, flat) == pytest.approx(np.log(1.2))


def test_the_reference_is_the_mean_of_its_sessions() -> None:
    ratio = Ratio.paired([np.full(5, 2.0)], [np.full(5, 1.0)], [np.full(5, 4.0)])
    assert ratio.value == pytest.approx(1.0)


def test_the_floor_widens_the_interval() -> None:
    ratio = Ratio(0.95, 0.94, 0.96)
    assert ratio.judged(0.01) == "faster"
    assert ratio.judged(0.05) == "no measurable difference"
    assert Ratio(1.05, 1.04, 1.06).judged(0.01) == "slower"


def test_one_block_a_round_is_enough_to_say_something() -> None:
    ratio = Ratio.paired([np.array([1.0])] * 3, [np.array([2.0])] * 3)
    assert ratio == Ratio(0.5, 0.5, 0.5)


def test_the_interval_of_a_median_is_around_it() -> None:
    blocks = [np.random.default_rng(0).lognormal(0, 0.1, 50) for _ in range(3)]
    low, high = Series(blocks=blocks).interval()
    assert low <= float(np.median(np.concatenate(blocks))) <= high
    assert high - low < 0.2
