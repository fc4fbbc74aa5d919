"""The expected pruned model: the plan applied to the original once more, and its stored tensors compared bit by bit.

Running a model on a few inputs never reads most rows of an embedding table; the comparison of tensors does.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from onnx import ModelProto

from onnxheadprune.edit import apply
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.errors import HeadPruneError, RefusedError
from onnxheadprune.model.graph.dims import Shape
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.operators import view_of
from onnxheadprune.validation.declarations import Inferred
from onnxheadprune.validation.graph_comparison import Likeness, likeness

if TYPE_CHECKING:
    from onnxheadprune.fusion.result import FuseMode


from onnxheadprune.validation.stored_tensors import Weights

FUSED: tuple[FuseMode, ...] = ("contrib", "onnx")


def find_likeness(
    original: LoadedModel, pruned: LoadedModel, plan: PrunePlan, name: str, fused: bool
) -> tuple[ModelProto, Likeness]:
    """The planned model, and how far the pruned one is that.

    Args:
        original: the model before the cut, with refitted numbers where the pruned model has them.
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


def _shapes(model: ModelProto) -> Inferred:
    """The shapes of values of the main graph, looked for once somebody asks."""

    @functools.cache
    def shapes() -> Mapping[str, Shape | None]:
        try:
            return {name: value.shape for name, value in view_of(model).main.values.items()}
        except HeadPruneError:
            return {}

    return lambda name: shapes().get(name)
