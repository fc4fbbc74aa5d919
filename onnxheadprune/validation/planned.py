"""The expected pruned model: the plan applied to the original once more."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from onnx import ModelProto

from onnxheadprune.attention.sites.find import view_of
from onnxheadprune.attention.sites.kinds import every_kind
from onnxheadprune.edit import apply
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.edit.records import fused_record, units_record
from onnxheadprune.errors import HeadPruneError, RefusedError
from onnxheadprune.model.graph.dims import Shape
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.validation.declared import Inferred
from onnxheadprune.validation.likeness import Likeness, likeness
from onnxheadprune.validation.weights import Weights

if TYPE_CHECKING:
    from onnxheadprune.fusion.result import FuseMode

FUSED: tuple[FuseMode, ...] = ("contrib", "onnx")


def find_likeness(
    original: LoadedModel, pruned: LoadedModel, plan: PrunePlan, name: str, fused: bool
) -> tuple[ModelProto, Likeness]:
    """The planned model, and how far the pruned one is that.

    Args:
        original: the model before the cut, with refitted numbers where the pruned model has them.
        pruned: the model to judge.
        plan: of the cut, made for `original`.
        name: how to call the original.
        fused: whether the pruned model says that its attention was fused.
    """
    same = Weights(original, pruned, plan).same
    candidates = _candidates(original, plan, name, fused)
    best = next(candidates)
    found = best, likeness(best, pruned.proto, same, _shapes(best))
    for candidate in candidates:
        if not found[1].identical:
            other = likeness(candidate, pruned.proto, same, _shapes(candidate))
            found = (candidate, other) if other.same > found[1].same else found
    return found


def _candidates(original: LoadedModel, plan: PrunePlan, name: str, fused: bool) -> Iterator[ModelProto]:
    """The cut, and the cut with fused attention where that was asked for."""
    cut = apply.apply_plan(plan, original.proto)
    yield cut
    if not fused:
        return
    from onnxheadprune.fusion.fuse import fuse

    for mode in FUSED:
        try:
            yield fuse(cut, mode, name)[0]
        except RefusedError:
            continue


def record_notes(planned: ModelProto, pruned: ModelProto, name: str) -> Iterator[str]:
    """Yield where the pruned model's records, which later cuts go by, say something else than belongs to the plan."""
    if set(fused_record(pruned)) != set(fused_record(planned)):
        yield f"the record of {name} lists other sites as fused than its graph shows"
    for kind in every_kind():
        known = {entry.number: entry for entry in units_record(planned, kind.UNITS)}
        for entry in units_record(pruned, kind.UNITS):
            wanted = known.get(entry.number)
            if wanted is not None and not entry.projections:
                # The first version did not write by what a site is recognised.
                wanted = replace(wanted, projections=())
            if entry != wanted:
                yield (
                    f"the record of {name} describes {kind.called(entry.number)} otherwise than the cut that was"
                    " looked at"
                )


def _shapes(model: ModelProto) -> Inferred:
    """The shapes of values of the main graph, looked for once somebody asks."""

    @functools.cache
    def shapes() -> Mapping[str, Shape | None]:
        try:
            return {name: value.shape for name, value in view_of(model).main.values.items()}
        except HeadPruneError:
            return {}

    return lambda name: shapes().get(name)
