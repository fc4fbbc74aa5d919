"""`--min-speedup`: a benchmark as a yes or no for pipelines."""

from __future__ import annotations

from onnxheadprune.benchmarking.result import Benchmark
from onnxheadprune.validation.gates import Gate


def speed_gates(result: Benchmark, least: float) -> list[Gate]:
    """One gate per compared model: its smallest measured speed-up over the grid must reach `least`.

    What is "no measurable difference" counts as a speed-up of 1 at most, so noise passes no gate above 1.
    """
    return [
        Gate(
            "min_speedup",
            result.models[index].name,
            least,
            result.least_speedup(index),
            result.least_speedup(index) >= least,
        )
        for index in range(1, len(result.models))
    ]
