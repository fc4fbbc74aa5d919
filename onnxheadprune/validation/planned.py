"""What the pruned model should look like: the plan carried out on the original once more."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import ModelProto

from onnxheadprune.edit import apply
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.errors import RefusedError
from onnxheadprune.fusion import FuseMode, fuse
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.validation.likeness import Likeness, likeness
from onnxheadprune.validation.weights import Weights

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
    found = best, likeness(best, pruned.proto, same)
    for candidate in candidates:
        if not found[1].identical:
            other = likeness(candidate, pruned.proto, same)
            found = (candidate, other) if other.same > found[1].same else found
    return found


def _candidates(original: LoadedModel, plan: PrunePlan, name: str, fused: bool) -> Iterator[ModelProto]:
    """The cut, and the cut with fused attention where that was asked for."""
    cut = apply.apply_plan(plan, original.proto)
    yield cut
    for mode in FUSED if fused else ():
        try:
            yield fuse(cut, mode, name)[0]
        except RefusedError:
            continue
