"""Fusion of a model's attention, for `auto` only if it is faster on this machine."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from onnx import ModelProto

from onnxheadprune.errors import InferenceError, RefusedError
from onnxheadprune.fusion.fuse import fuse
from onnxheadprune.fusion.result import FuseMode, Fusion, SiteFusion, Trial
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.feeds.data import DataSource
from onnxheadprune.runtime.providers import AUTO, resolve_provider
from onnxheadprune.settings.calls import BenchCall, ValidateCall

if TYPE_CHECKING:
    from onnxheadprune.benchmarking.result import Benchmark

Form: TypeAlias = Callable[[ModelProto, FuseMode, str], tuple[ModelProto, Fusion]]
CANDIDATES: tuple[FuseMode, ...] = ("contrib", "onnx")
SECONDS = 4.0
"""Time to measure per grid point, for all candidates together."""


@dataclass(frozen=True)
class Setting:
    """The provider and inputs on which candidates are proven and measured."""

    provider: Provider | None = None  # where to run; None resolves the automatic choice when it is needed
    data: DataSource | None = None  # the user's inputs, for the proof
    seed: int = 0  # of random inputs
    seconds: float = SECONDS  # measuring time per grid point
    repeats: int | None = None  # blocks per grid point instead of a time
    form: Form = fuse  # makes a candidate


def fused(
    original: LoadedModel, pruned: LoadedModel, mode: FuseMode, changed: bool, setting: Setting
) -> tuple[LoadedModel, Fusion | None]:
    """A model with its attention in fused operators.

    Args:
        changed: whether heads were removed from it, so it is written in any case.

    Returns:
        The model, and the result for each site (None where fusion was not requested).
    """
    if mode == "none":
        return pruned, None
    if mode == "auto":
        model, fusion = _fastest(original, pruned, setting)
    else:
        model, fusion = fuse(pruned.proto, mode, original.name)
    if not fusion.made and not changed:
        raise RefusedError(f"there is nothing to fuse in {original.name}: {fusion}")
    return pruned.changed(model), fusion


def _fastest(original: LoadedModel, pruned: LoadedModel, setting: Setting) -> tuple[ModelProto, Fusion]:
    """Measure every exact candidate against the unfused model; keep the fastest."""
    provider = setting.provider or resolve_provider(AUTO)
    made: list[tuple[ModelProto, Fusion]] = []
    trials: list[Trial] = []
    for mode in CANDIDATES:
        try:
            model, fusion = setting.form(pruned.proto, mode, original.name)
        except RefusedError as refused:
            trials.append(Trial(mode, str(refused)))
            continue
        obstacle = (
            str(fusion)
            if not fusion.made
            else _obstacle(original, pruned.changed(model, "the fused model"), provider, setting)
        )
        trials.append(Trial(mode, obstacle))
        if not obstacle:
            made.append((model, fusion))
    if not made:
        return pruned.proto, _kept(pruned.proto, original.name, trials, "no candidate is exact here")
    candidates = [pruned.proto, *(model for model, _ in made)]
    names = ["unfused", *(fusion.mode for _, fusion in made)]
    from onnxheadprune.benchmarking.runner import run_benchmark

    call = BenchCall(time_budget=setting.seconds, repeats=setting.repeats, seed=setting.seed, memory=False)
    models = [pruned.changed(model, name) for model, name in zip(candidates, names, strict=True)]
    measured = run_benchmark(models, call, provider=provider)
    ratios = {name: _ratios(measured, index) for index, name in enumerate(names) if index}
    trials = [dataclasses.replace(trial, ratios=ratios.get(trial.mode, {})) for trial in trials]
    best = _best(measured, names)
    if best is None:
        return pruned.proto, _kept(
            pruned.proto, original.name, trials, "no fused form is measurably faster here"
        )
    model, fusion = made[best - 1]
    return model, dataclasses.replace(fusion, mode="auto", chosen=fusion.mode, trials=tuple(trials))


def _obstacle(original: LoadedModel, fused: LoadedModel, provider: Provider, setting: Setting) -> str:
    """Return why a candidate is not exact on this provider, "" if it is."""
    from onnxheadprune.validation.proof import prove

    try:
        verdict = prove(original, fused, ValidateCall(seed=setting.seed), setting.data, provider)
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
