"""`bench`: is the pruned model faster, by how much, and how much could it be?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from onnxheadprune.benchmarking.grid import Asked
from onnxheadprune.benchmarking.measure import Quota
from onnxheadprune.benchmarking.request import BenchRequest, BenchSettings, Measuring
from onnxheadprune.benchmarking.result import (
    Benchmark,
    Cell,
    Comparison,
    GridPoint,
    Latency,
    ModelFacts,
    SpeedUp,
)
from onnxheadprune.benchmarking.runner import run_benchmark
from onnxheadprune.benchmarking.statistics import Ratio
from onnxheadprune.model.load import ModelLike
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.providers import AUTO

__all__ = [
    "BenchRequest",
    "BenchSettings",
    "Benchmark",
    "Cell",
    "Comparison",
    "GridPoint",
    "Latency",
    "Measuring",
    "ModelFacts",
    "Ratio",
    "SpeedUp",
    "benchmark",
    "run_benchmark",
]


def benchmark(
    model: ModelLike,
    *others: ModelLike,
    provider: str | Provider = AUTO,
    batch: Sequence[int] | None = None,
    seq: Sequence[int] | None = None,
    past: Sequence[int] | None = None,
    dims: Mapping[str, int] | None = None,
    repeats: int | None = None,
    time_budget: float = 10.0,
    seed: int = 0,
    threads: int | None = None,
    cuda_graph: bool = False,
    memory: bool = True,
    progress: Callable[[str], object] | None = None,
) -> Benchmark:
    """Measures the latency of models side by side, in one process.

    Args:
        model: the reference.
        others: what to compare with it, usually pruned versions.
        provider: "auto", "cpu", "cuda" or another execution provider's name; or one that is resolved.
        batch: batch sizes; by default 1 and 8.
        seq: sequence lengths; by default 128, or the longest that runs.
        past: lengths of the cache behind which one new token is measured.
        dims: sizes of single symbolic dimensions.
        repeats: blocks per grid point; None goes by `time_budget`.
        time_budget: seconds per grid point, for all models together.
        seed: of the inputs, the order of measurement and the bootstrap.
        threads: of the CPU's kernels; None leaves ONNX Runtime's own choice.
        cuda_graph: capture and replay CUDA graphs (CUDA only), where every model and shape allows it.
        memory: also measure the peak of memory, in a process of its own.
        progress: is told in a few words what is done next.

    Returns:
        Latencies, ratios with their intervals, verdicts, operations and bounds.

    Raises:
        UsageError: if a size does not fit the model, or an option makes no sense.
        ModelError: if a model cannot be read or does not run.
        ProviderError: if the asked-for provider does not run here, or not one node runs on it.
    """
    measuring = Measuring(Asked(batch, seq, past, dims or {}), Quota(repeats, time_budget), threads)
    request = BenchRequest(measuring, provider, seed, cuda_graph, memory)
    return run_benchmark((model, *others), request, progress or (lambda _: None))
