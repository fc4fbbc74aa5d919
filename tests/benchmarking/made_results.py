"""Measurements with known numbers, as the Python API gives them."""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune import Benchmark, Cell, Comparison, GridPoint, Latency, ModelFacts, Ratio
from onnxheadprune.benchmarking.flops import Flops
from onnxheadprune.benchmarking.result import SpeedUp
from onnxheadprune.runtime import CPU, Provider

PROVIDER = Provider(CPU, "asked for")
FLOPS = Flops(2_000_000_000, 500_000_000)


def latency(median: float) -> Latency:
    return Latency(
        p50=median,
        p90=1.2 * median,
        p99=1.4 * median,
        low=0.95 * median,
        high=1.08 * median,
        mean=1.02 * median,
        runs=50,
        throughput=1 / median,
        settled=True,
    )


def comparison(factor: float) -> Comparison:
    return Comparison(Ratio(1 / factor, 0.97 / factor, 1.04 / factor), 1.3)


def benchmark_result(names: Sequence[str], points: Sequence[GridPoint], *, steep: float = 1.0) -> Benchmark:
    """Model `n` is 1 + 0.2 n times as fast as the first; `steep` is what a size multiplies latency by."""
    facts = tuple(ModelFacts(name, 90_000_000, 22_000_000, {}, {}) for name in names)
    cells = []
    for place, point in enumerate(points):
        for model in range(len(names)):
            factor = 1 + 0.2 * model
            found = comparison(factor) if model else None
            cells.append(Cell(model, point, latency(0.004 * steep**place / factor), FLOPS, found))
    settings = {"rounds": 7, "confidence": 0.995, "cuda_graph": False}
    machine = {"processor": "a processor", "cores": 2, "cards": [], "load_average": 0.1}
    return Benchmark(facts, tuple(points), cells, PROVIDER, settings, {"onnxruntime": "1.31.1"}, machine)


def speed_up(*ratios: tuple[float, float, float]) -> SpeedUp:
    """Of latencies, with the ends of their intervals around them: at batch 1, 2 and so on."""
    cells = []
    for batch, (low, value, high) in enumerate(ratios, 1):
        cells.append((GridPoint(batch), Comparison(Ratio(value, low, high), None)))
    return SpeedUp(tuple(cells), PROVIDER)
