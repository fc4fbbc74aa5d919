"""Results with known numbers, as the Python API gives them, to make pictures and notebooks of."""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune import (
    Benchmark,
    Cell,
    Comparison,
    Curve,
    CurvePoint,
    GridPoint,
    Latency,
    ModelFacts,
    Ratio,
)
from onnxheadprune.benchmarking.flops import Flops
from onnxheadprune.benchmarking.result import SpeedUp
from onnxheadprune.runtime import CPU, Provider

PROVIDER = Provider(CPU, "asked for")
LONG = "/data/models/sentence-transformers/all-MiniLM-L6-v2/onnx"
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


def curve_result(name: str = f"{LONG}/model.onnx", *, labels: bool = True, counted: str = "heads") -> Curve:
    """Eight cuts; the first brings no measurable difference."""
    drifts = (0.0, 0.0008, 0.0016, 0.003, 0.005, 0.009, 0.028, 0.11)
    points = []
    for step, drift in enumerate(drifts):
        factor = 1 + 0.04 * step
        found = comparison(factor)
        speed = SpeedUp(((GridPoint(8, 128), found),), PROVIDER) if step else None
        points.append(
            CurvePoint(
                step / 10,
                7 * step,
                {"0": list(range(step))} | ({} if counted == "heads" else {"ffn.3": list(range(8 * step))}),
                drift,
                0.9867 - drift if labels else None,
                1.0 if speed is None else speed.value,
                speed,
                22_713_216 - 688_000 * step,
                None if counted == "heads" else 0.0971 * step,
            )
        )
    return Curve(name, 72, "kl", tuple(points), 5, 22_713_216, counted)
