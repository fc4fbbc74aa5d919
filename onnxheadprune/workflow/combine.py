"""Pruned and quantized: the original, both changes alone, and both together in either order, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnxheadprune.benchmarking.measure import BenchRequest
from onnxheadprune.benchmarking.result import Benchmark
from onnxheadprune.benchmarking.runner import run_benchmark
from onnxheadprune.data.calibration import Calibration, calibration_data
from onnxheadprune.edit.records import QUANTIZED_ENTRY
from onnxheadprune.errors import HeadPruneError, RefusedError, UsageError, named_setting
from onnxheadprune.liveness.interface import AS_BEFORE
from onnxheadprune.model.display import Displayed, one_line
from onnxheadprune.model.facts import Facts
from onnxheadprune.model.load import LoadedModel, ModelLike, open_structure
from onnxheadprune.model.save import Outputs, commit, stage_model
from onnxheadprune.model.storage.claims import Reading, named_files
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.runtime.providers import resolve_provider
from onnxheadprune.settings.measuring import Rounding, Timing
from onnxheadprune.validation.claim import Claim, read_claim
from onnxheadprune.validation.oracle import claimed_exits, claimed_vocabulary
from onnxheadprune.workflow.apart import Distance, Looking, Reference
from onnxheadprune.workflow.combination import combination_facts
from onnxheadprune.workflow.pipeline import run_prune
from onnxheadprune.workflow.quantize import QuantizeRequest, QuantizeResult, held_out, quantized_through
from onnxheadprune.workflow.requests import Choice, Request, Run, Writing

ORIGINAL, PRUNED, QUANTIZED = "original", "pruned", "quantized"
PRUNED_FIRST, QUANTIZED_FIRST = "pruned, then quantized", "quantized, then pruned"
ALIKE = 0.02
"""Drifts that differ by less than this part are alike: the data that they are measured on would decide."""


@dataclass(frozen=True)
class CombineRequest:
    """The settings of one `combine`, without the models."""

    how: Rounding  # how models are quantized
    run: Run = field(default_factory=Run)  # the provider and data they run on
    looking: Looking = field(default_factory=Looking)  # the settings of the comparison
    timing: Timing = field(default_factory=Timing)  # the settings of latency measurements
    writing: Writing = field(default_factory=Writing)  # where the better of both orders is written


@dataclass(frozen=True, eq=False)
class Corner:
    """One of the compared models."""

    name: str  # the changes made to it
    model: LoadedModel
    distance: Distance  # from the original, on held-out data, both run as in a deployment


@one_line("original recommended reason corners refused output")
@dataclass(frozen=True, eq=False)
class Combination(Displayed):
    """The models side by side.

    Attributes:
        original: name of the original.
        how: how models were quantized.
        corners: the models, the original first.
        refused: orders that are impossible, with the reason.
        benchmark: their latencies, in the order of the corners.
        recommended: the name of the better order.
        reason: why it is better.
        output: where it was written, None if it was not.
        notes: remarks, one sentence each.
    """

    original: str
    how: Rounding
    corners: tuple[Corner, ...]
    refused: Mapping[str, str]
    benchmark: Benchmark
    recommended: str
    reason: str
    output: str | None = None
    notes: tuple[str, ...] = ()

    def speed(self, name: str, against: str = ORIGINAL) -> float:
        """Return the speed-up of a corner over another, the geometric mean over the sizes."""
        names = [corner.name for corner in self.corners]
        one, other = (self.benchmark.cells_of(names.index(item)) for item in (against, name))
        logs = [math.log(a.latency.p50 / b.latency.p50) for a, b in zip(one, other, strict=True)]
        return math.exp(sum(logs) / len(logs))

    def facts(self) -> Facts:
        """The better order, and the models side by side."""
        return combination_facts(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, without the models themselves."""
        rows = [
            {
                "name": corner.name,
                "file_bytes": facts.file_bytes,
                "speedup": self.speed(corner.name),
                **corner.distance.to_dict(),
            }
            for corner, facts in zip(self.corners, self.benchmark.models, strict=True)
        ]
        return {
            "original": self.original,
            "quantization": asdict(self.how) | {"exclude": list(self.how.exclude)},
            "corners": rows,
            "refused": dict(self.refused),
            "recommended": self.recommended,
            "reason": self.reason,
            "output": self.output,
            "notes": list(self.notes),
            "benchmark": self.benchmark.to_dict(),
        }


def combined_through(
    model: ModelLike,
    pruned: ModelLike,
    request: CombineRequest,
    progress: Progress = silent,
    ready: Callable[[Combination], None] = lambda _: None,
) -> Combination:
    """Run `combine` for a request.

    Args:
        ready: called with the result before files get their names; nothing is written if it raises.
    """
    original, cut = open_structure(model), open_structure(pruned)
    target = _target(original, cut, request)
    for loaded in (original, cut):
        if QUANTIZED_ENTRY.read(loaded.proto) is not None:
            raise UsageError(f"{loaded.name} is quantized already; give the models in floats")
    if request.run.data is None:
        raise UsageError(f"drift is measured on data; give it with {named_setting('data')}")
    if claimed_exits(original, cut) is not None:
        raise UsageError(
            f"an exit of {original.name} is permanent in {cut.name}; make it permanent alone"
            f" ({named_setting('exit', command='prune')}), and"
            " combine what that gives with a cut of it"
        )
    if claimed_vocabulary(original, cut) is not None:
        raise UsageError(
            f"{cut.name} lacks tokens of {original.name}; remove them alone"
            f" ({named_setting('vocab', command='prune')}), and combine what that"
            " gives with a cut of it"
        )
    claim = read_claim(original, cut.proto, None, (original.name, cut.name))
    view = view_of(original)
    learn, held = held_out(calibration_data(request.run.data, view))
    rounded = _quantized(original, learn, request, progress)
    models = {ORIGINAL: original, PRUNED: cut, QUANTIZED: LoadedModel(rounded.model, QUANTIZED)}
    refused: dict[str, str] = {}
    for name, make in _orders(cut, models[QUANTIZED], claim, learn, request, progress):
        try:
            models[name] = make()
        except HeadPruneError as error:
            refused[name] = str(error)
    if len(refused) > 1:
        raise RefusedError(f"neither order can be had: {'; '.join(refused.values())}")
    progress("measuring drift", 0, 0)
    reference = Reference(original, held, resolve_provider(request.run.provider))
    corners = tuple(_corner(reference, name, item, claim, request) for name, item in models.items())
    bench = BenchRequest(
        **vars(request.timing), provider=request.run.provider, seed=request.run.seed, memory=False
    )
    named = [LoadedModel(c.model.proto, c.name, c.model.sources, c.model.inline) for c in corners]
    measured = run_benchmark(named, bench, lambda text: progress(text, 0, 0))
    best, reason = _better(corners, refused)
    written = None if target is None else str(target)
    notes = (*rounded.notes, *measured.notes)
    if claim.refit is None:
        notes += (f"{cut.name} was not refitted, so neither was the quantized model that was cut",)
    found = Combination(original.name, rounded.how, corners, refused, measured, best, reason, written, notes)
    if target is None:
        ready(found)
        return found
    chosen = models[best].changed(models[best].as_stored)
    with stage_model(chosen, target, request.writing.storing) as stage:
        ready(found)
        commit(stage)
    return found


def _target(original: LoadedModel, cut: LoadedModel, request: CombineRequest) -> Path | None:
    others: list[Reading] = [*named_files("the data", request.run.data)]
    return Outputs.of(request.writing.output).claim(original, cut, others=others).model


def _quantized(
    loaded: LoadedModel, data: Calibration, request: CombineRequest, progress: Progress
) -> QuantizeResult:
    run = Run(request.run.provider, request.run.seed, data)
    return quantized_through(loaded, QuantizeRequest(request.how, run), progress)


def _orders(
    cut: LoadedModel,
    rounded: LoadedModel,
    claim: Claim,
    data: Calibration,
    request: CombineRequest,
    progress: Progress,
) -> tuple[tuple[str, Callable[[], LoadedModel]], ...]:
    """Both orders, each with a function that makes its model."""

    def pruned_first() -> LoadedModel:
        return LoadedModel(
            _quantized(cut, data.narrowed(claim.planning.io), request, progress).model, PRUNED_FIRST
        )

    def quantized_first() -> LoadedModel:
        units = claim.planning.plan.spec
        choice = Choice(units, refit=claim.refit is not None, effect=request.looking.effect)
        run = Run(request.run.provider, request.run.seed, data)
        return run_prune(rounded, Request(choice, claim.contract, run=run), progress).pruned

    return (PRUNED_FIRST, pruned_first), (QUANTIZED_FIRST, quantized_first)


def _corner(
    reference: Reference, name: str, model: LoadedModel, claim: Claim, request: CombineRequest
) -> Corner:
    """A model, and its distance from the original."""
    io = AS_BEFORE if name in (ORIGINAL, QUANTIZED) else claim.planning.io
    return Corner(name, model, reference.distance(model, request.looking, io))


def _better(corners: tuple[Corner, ...], refused: Mapping[str, str]) -> tuple[str, str]:
    """The better one of both orders, and why."""
    found = {
        corner.name: corner.distance for corner in corners if corner.name in (PRUNED_FIRST, QUANTIZED_FIRST)
    }
    if len(found) == 1:
        (best,) = found
        return best, f"the other order cannot be had: {'; '.join(refused.values())}"
    best, other = sorted(found, key=lambda name: found[name].drift)
    near, far, unit = found[best].drift, found[other].drift, found[best].unit
    if far - near <= ALIKE * far:
        both = f"{found[QUANTIZED_FIRST].drift:.3g} and {found[PRUNED_FIRST].drift:.3g}, {unit}"
        reason = f"since both drift alike ({both}) and a cut of a quantized model is proven exact against it"
        return QUANTIZED_FIRST, reason
    return best, f"it drifts by {near:.3g} ({unit}) from the original on held-out data, {other} by {far:.3g}"
