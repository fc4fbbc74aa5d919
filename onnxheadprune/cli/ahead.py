"""The plan of a dry run. Loaded for --dry-run only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxheadprune.edit.plan import PrunePlan
    from onnxheadprune.fusion.result import Fusion
    from onnxheadprune.model.load import LoadedModel
    from onnxheadprune.model.storage.tensors import StoredSize
    from onnxheadprune.workflow.requests import Request


@dataclass(frozen=True)
class Planned:
    """A plan that nothing has to be measured for."""

    plan: PrunePlan
    fusion: Fusion | None  # what becomes of each site, None if no fusion was asked for
    # what stored tensors hold before and after; None where nothing changes
    sizes: tuple[StoredSize, StoredSize] | None

    def to_dict(self) -> dict[str, object]:
        """The document of a dry run."""
        from onnxheadprune.workflow.result import size_warnings

        told: dict[str, object] = {} if self.fusion is None else {"fusion": self.fusion.to_dict()}
        if self.sizes is not None:
            told |= {"before": self.sizes[0].to_dict(), "after": self.sizes[1].to_dict()}
        told["warnings"] = [] if self.sizes is None else list(size_warnings(*self.sizes))
        return self.plan.to_dict() | told


def plan_ahead(model: Path | LoadedModel, request: Request) -> Planned:
    """Plan a cut of named units."""
    from onnxheadprune.attention.planning import plan_of, require_something
    from onnxheadprune.workflow.fuse import planned_fusion
    from onnxheadprune.workflow.result import planned_size

    heads = {} if request.choice.heads is None else request.choice.heads
    plan = plan_of(model, heads, request.contract, request.choice.exit)
    fusion = None
    if request.fuse == "none":
        require_something(plan)
    else:
        fusion = planned_fusion(plan, model, request.fuse)
    return Planned(plan, fusion, planned_size(plan, model) if plan.changes_something else None)
