"""`--fuse`: fused operators for what is left of a model, if that is what was asked for."""

from __future__ import annotations

from onnx import ModelProto

from onnxheadprune import surgery
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.fusion import MODES, FuseMode, Fusion, fuse
from onnxheadprune.model_io import ModelLike, open_structure
from onnxheadprune.plan import PrunePlan


def fused(pruned: ModelProto, mode: FuseMode, name: str, changed: bool) -> tuple[ModelProto, Fusion | None]:
    """A model with its attention in fused operators.

    Args:
        pruned: the model.
        mode: which operators.
        name: what to call the model.
        changed: whether heads were removed from it, so that there is something to write in any case.

    Returns:
        The model, and what became of each site (None where nothing was asked for).

    Raises:
        UsageError: if there is no such mode.
        RefusedError: if nothing can be fused and nothing else was done, or the opset cannot be raised.
    """
    if mode not in MODES:
        raise UsageError(f"fusion is one of {', '.join(MODES)}, not {mode!r}")
    if mode == "none":
        return pruned, None
    model, fusion = fuse(pruned, mode, name)
    if not fusion.made and not changed:
        raise RefusedError(f"there is nothing to fuse in {name}: {fusion}")
    return model, fusion


def planned_fusion(plan: PrunePlan, model: ModelLike, mode: FuseMode) -> Fusion:
    """What fusion would do after a plan; nothing is validated, measured or written.

    Args:
        plan: made for `model`.
        model: the model.
        mode: which operators; "auto" is looked at as "contrib", which it tries first.

    Raises:
        RefusedError: if nothing can be fused and the plan removes nothing, or the opset cannot be raised.
        ModelError: if the model cannot be read.
    """
    pruned = surgery.apply_plan(plan, open_structure(model).proto)
    _, fusion = fused(pruned, "contrib" if mode == "auto" else mode, plan.model, bool(plan.removed))
    assert fusion is not None
    return fusion
