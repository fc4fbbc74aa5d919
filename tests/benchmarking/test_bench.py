"""`bench`: what it measures, what it says about it, and what it refuses to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxheadprune import InferenceError, ModelFacts, bench
from onnxheadprune.benchmarking import entry, measure, runner
from onnxheadprune.benchmarking.measure import warm_up
from onnxheadprune.runtime import CPU, CUDA
from tests.clocks import patient
from tests.graphs import toys

QUICK: dict[str, Any] = {"provider": "cpu", "repeats": 7, "memory": False, "threads": 1}
"""One thread: test workers share the cores."""


@pytest.fixture(autouse=True)
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asserted of real models are counts, names and factors, not how narrow intervals are."""
    monkeypatch.setattr(measure, "SLICE", 0.002)


class Clock:
    """A clock that only models move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Fake:
    """A model that takes what it is told to take."""

    def __init__(self, clock: Clock, *seconds: float) -> None:
        self.clock, self.seconds, self.calls = clock, list(seconds), 0

    def run(self) -> None:
        self.clock.now += self.seconds[min(self.calls, len(self.seconds) - 1)]
        self.calls += 1


# The measuring itself


def test_slow_models_warm_up_in_few_runs() -> None:
    clock = Clock()
    slow = Fake(clock, 3.0, 2.0, 2.0)
    assert warm_up(slow, clock) == (2.0, True)
    assert slow.calls == 3


def test_a_warm_up_that_does_not_settle_ends_too() -> None:
    clock = Clock()
    faster_and_faster = Fake(clock, *(0.09 * 0.98**run for run in range(1000)))
    assert warm_up(faster_and_faster, clock)[1] is False


# Results


@pytest.mark.slow
@patient
def test_a_much_smaller_model_is_faster() -> None:
    heavy, light = toys.attention(hidden=64, heads=16), toys.attention(hidden=64, heads=1)
    result = bench(heavy, light, batch=[8], seq=[64], provider="cpu", time_budget=1, memory=False, threads=1)
    assert result.verdict(1) == "faster"
    assert result.guaranteed(1) > 1.2
    assert [gate.passed for gate in result.limited(1.5)] == [True]
    assert [gate.passed for gate in result.limited(100)] == [False]
    slower = bench(light, heavy, batch=[8], seq=[64], provider="cpu", time_budget=1, memory=False, threads=1)
    assert slower.verdict(1) == "slower"


# The grid


@pytest.mark.slow
def test_sizes_are_chosen_so_that_the_model_runs(tiny: Path) -> None:
    """Its position table has fewer rows than the usual 128."""
    result = bench(tiny / "bert-torchscript-eager.onnx", batch=[1], **QUICK)
    assert result.points[0].seq in (64, 32, 16, 8)
    with pytest.raises(InferenceError, match="does not run"):
        bench(tiny / "bert-torchscript-eager.onnx", batch=[1], seq=[100000], **QUICK)


# What is not comparable


def test_other_places_are_not_comparable() -> None:
    placements = {CUDA: 90, CPU: 4}, {CUDA: 85, CPU: 9}, {CUDA: 90}
    both, more, cuda = (ModelFacts("model", 1, 1, {}, placed) for placed in placements)
    assert not entry.differences(both, both)
    assert "9 nodes landed on the CPU" in entry.differences(both, more)[0]
    assert "those of this one on CPU and CUDA" in entry.differences(cuda, both)[0]


# The command


def test_a_runtime_that_crashes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "loads_without_crash", lambda *_: False)
    with pytest.raises(InferenceError, match="crashes when it optimizes toy"):
        bench(toys.attention(dtype=np.float16), **QUICK)
    assert bench(toys.attention(), batch=[1], seq=[2], **QUICK).cells
