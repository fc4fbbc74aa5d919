"""The Python API of one cut: the commands as functions that never print.

Models are given as a path, a `ModelProto`, a `gs.Graph` or an `onnx_ir.Model`; they are never changed.
"""

from __future__ import annotations

from onnx import ModelProto

from onnxheadprune.attention.planning import planned_on
from onnxheadprune.edit import apply
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.model.load import ModelLike, open_structure
from onnxheadprune.model.storage.reading import hydrated
from onnxheadprune.workflow.pipeline import seal_refits


def apply_plan(plan: PrunePlan, model: ModelLike) -> ModelProto:
    """A copy of `model` after the plan was applied; everything outside the plan is bit-identical.

    Raises:
        RefusedError: if the plan was made for a model of another structure, or of other exits.
        ModelError: if the model cannot be read.
    """
    loaded = planned_on(plan, open_structure(model))
    pruned = loaded.changed(apply.apply_plan(plan, loaded.proto))
    seal_refits(pruned, plan)
    return hydrated(pruned.proto, pruned.sources)
