"""`bench` as a function."""

from __future__ import annotations

from typing import Unpack

from onnxheadprune.api import calls
from onnxheadprune.api.common import Shown, heard, subject_of
from onnxheadprune.api.keywords import keywords_of
from onnxheadprune.api.typed import BenchKeywords
from onnxheadprune.benchmarking.measure import BenchRequest
from onnxheadprune.benchmarking.result import Benchmark
from onnxheadprune.benchmarking.runner import run_benchmark
from onnxheadprune.model.load import ModelLike


@keywords_of(calls.BENCH)
def bench(
    model: ModelLike,
    *others: ModelLike,
    progress: Shown = None,
    **settings: Unpack[BenchKeywords],
) -> Benchmark:
    """Measure the latency of models side by side, in one process.

        result = ohp.bench("model.onnx", "pruned.onnx", batch=[1, 8], seq=128)
        result = ohp.bench("model.onnx", "pruned.onnx", provider="cuda", time_budget=30)

    Args:
        model: the reference.
        others: what to compare with it, usually pruned versions.
        {settings}
        progress: see `prune`.

    Returns:
        Latencies, ratios with their intervals, verdicts, operations and bounds; `passed` is False where a model does
        not reach `min_speedup`.

    Raises:
        UsageError: if a size does not fit the model, or a keyword makes no sense.
        ModelError: if a model cannot be read or does not run.
        ProviderError: if the named provider does not run here, or not one node runs on it.
    """
    given = calls.BENCH.read(settings)
    models = [subject_of(item, given.follow_links) for item in (model, *others)]
    return run_benchmark(models, BenchRequest.of(given), lambda what: heard(progress)(what, 0, 0))
