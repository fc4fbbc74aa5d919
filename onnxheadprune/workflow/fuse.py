"""Fusion of a model's attention, for `auto` only if it is faster on this machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from onnx import ModelProto

from onnxheadprune.errors import InferenceError, RefusedError
from onnxheadprune.fusion.fuse import fuse
from onnxheadprune.fusion.result import FuseMode, Fusion, SiteFusion, Trial
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.feeds.data import DataSource
from onnxheadprune.settings.calls import BenchCall, PruneCall, ValidateCall

if TYPE_CHECKING:
    from onnxheadprune.benchmarking.result import Benchmark

Form: TypeAlias = Callable[[ModelProto, FuseMode, str], tuple[ModelProto, Fusion]]
CANDIDATES: tuple[FuseMode, ...] = ("contrib", "onnx")
SECONDS = 4.0
"""Time to measure per grid point, for all candidates together."""


def fused(
    original: LoadedModel,
    pruned: LoadedModel,
    call: PruneCall,
    provider: Provider | None,
    data: DataSource | None,
    *,
    form: Form = fuse,
    seconds: float = SECONDS,
) -> tuple[LoadedModel, Fusion]:
    """A model with its attention in fused operators, and what became of each site.

    Args:
        call: which operators are asked for, and the seed of random inputs.
        provider: where candidates of "auto" are proven and measured; None for the other modes.
        data: the user's inputs, for the proof.
        form: makes a candidate.
        seconds: time to measure per grid point.
    """
    if call.fuse != "auto":
        model, fusion = form(pruned.proto, call.fuse, original.name)
        return pruned.changed(model), fusion
    assert provider is not None
    made: list[tuple[ModelProto, Fusion]] = []
    trials: list[Trial] = []
    for mode in CANDIDATES:
        try:
            model, fusion = form(pruned.proto, mode, original.name)
        except RefusedError as refused:
            trials.append(Trial(mode, str(refused)))
            continue
        obstacle = str(fusion)
        if fusion.made:
            obstacle = _obstacle(original, pruned.changed(model, "the fused model"), call, provider, data)
        trials.append(Trial(mode, obstacle))
        if not obstacle:
            made.append((model, fusion))
    if not made:
        return pruned, _kept(pruned.proto, original.name, trials, "no candidate is exact here")
    candidates = [pruned.proto, *(model for model, _ in made)]
    names = ["unfused", *(fusion.mode for _, fusion in made)]
    from onnxheadprune.benchmarking.runner import run_benchmark

    models = [pruned.changed(model, name) for model, name in zip(candidates, names, strict=True)]
    timing = BenchCall(time_budget=seconds, seed=call.seed, memory=False)
    measured = run_benchmark(models, timing, provider=provider)
    ratios = {name: _ratios(measured, index) for index, name in enumerate(names) if index}
    trials = [replace(trial, ratios=ratios.get(trial.mode, {})) for trial in trials]
    best = _best(measured, names)
    if best is None:
        reason = "no fused form is measurably faster here"
        return pruned, _kept(pruned.proto, original.name, trials, reason)
    model, fusion = made[best - 1]
    return pruned.changed(model), replace(fusion, mode="auto", chosen=fusion.mode, trials=tuple(trials))


def _obstacle(
    original: LoadedModel,
    fused: LoadedModel,
    call: PruneCall,
    provider: Provider,
    data: DataSource | None,
) -> str:
    """Return why a candidate is not exact on this provider, "" if it is."""
    from onnxheadprune.validation.proof import prove

    try:
        verdict = prove(original, fused, ValidateCall(seed=call.seed), data, provider)
    except InferenceError as error:
        return str(error)
    return verdict.reason if verdict.verdict == "failed" else ""


def _ratios(measured: Benchmark, index: int) -> dict[str, float]:
    """Latency over the unfused model's, per grid point."""
    return {
        cell.point.label: cell.comparison.ratio.value
        for cell in measured.cells_of(index)
        if cell.comparison is not None
    }


def _best(measured: Benchmark, names: Sequence[str]) -> int | None:
    """The candidate with the smallest mean ratio that is faster somewhere; None if there is none."""
    means: dict[int, float] = {}
    for index in range(1, len(names)):
        comparisons = [cell.comparison for cell in measured.cells_of(index) if cell.comparison is not None]
        mean = math.exp(sum(math.log(item.ratio.value) for item in comparisons) / len(comparisons))
        if mean < 1 and any(item.verdict == "faster" for item in comparisons):
            means[index] = mean
    return min(means, key=lambda index: means[index], default=None)


def _kept(pruned: ModelProto, name: str, trials: Sequence[Trial], reason: str) -> Fusion:
    """The result without fusion."""
    _, fusion = fuse(pruned, "contrib", name)
    sites = tuple(
        site if site.before or site.reason else SiteFusion(site.index, site.name, reason=reason)
        for site in fusion.sites
    )
    return Fusion("auto", sites, fusion.opset_before, fusion.opset_before, "none", tuple(trials))
