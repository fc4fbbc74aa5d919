"""Dry runs: check that outputs can be written and the model can run, and plan the cut. Loaded for --dry-run only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxheadprune.model.load import LoadedModel
    from onnxheadprune.workflow.requests import Request


def check_ahead(model: Path | LoadedModel, request: Request) -> None:
    """Check that the outputs of a dry run can be written, and that its provider is available.

    Raises:
        UsageError: if the output or the backup cannot be written.
        ProviderError: if the provider does not run here.
    """
    from onnxheadprune.model.load import open_structure
    from onnxheadprune.model.save import check_backup, check_target
    from onnxheadprune.runtime.providers import AUTO, resolve_provider

    target, backup = request.writing.output, request.writing.backup
    if target is not None:
        loaded = open_structure(model)
        place = check_target(target, loaded, in_place=backup is not None)
        if backup is not None:
            check_backup(backup, place, loaded)
    if request.run.provider.lower() != AUTO:
        resolve_provider(request.run.provider)


def plan_ahead(model: Path | LoadedModel, request: Request) -> tuple[list[RenderableType], dict[str, object]]:
    """The report and the document of a plan that nothing has to be measured for."""
    from onnxheadprune.attention.planning import plan_of, require_something
    from onnxheadprune.reporting.plan import fusion_rows, plan_report
    from onnxheadprune.workflow.fuse import planned_fusion
    from onnxheadprune.workflow.result import planned_size, size_warnings

    heads = {} if request.choice.heads is None else request.choice.heads
    plan = plan_of(model, heads, request.contract, request.choice.exit)
    fusion = None
    if request.fuse == "none":
        require_something(plan)
    else:
        fusion = planned_fusion(plan, model, request.fuse)
    sizes = planned_size(plan, model) if plan.changes_something else None
    told: dict[str, object] = {} if fusion is None else {"fusion": fusion.to_dict()}
    if sizes is not None:
        told |= {"before": sizes[0].to_dict(), "after": sizes[1].to_dict()}
    told["warnings"] = [] if sizes is None else list(size_warnings(*sizes))
    return [*plan_report(plan, None, sizes), *fusion_rows(fusion)], plan.to_dict() | told
