"""`--min-speedup`: a benchmark as a yes or no for pipelines."""

from __future__ import annotations

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.benchmarking.result import Benchmark


def speed_gates(result: Benchmark, least: float) -> list[Gate]:
    """One gate per compared model: its speed-up over the grid (`SpeedUp`) must reach `least`."""
    gates = []
    for index in range(1, len(result.models)):
        found = result.speedup(index)
        gates.append(Gate("min_speedup", result.models[index].name, least, found.value, found.reaches(least)))
    return gates
