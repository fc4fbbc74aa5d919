"""Parts that `prune` and `fuse` share: the dry run, or one model from end to end, and the report of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxheadprune.cli.presenting import Presentation, command_line, run_record, this_call

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxheadprune.model.load import LoadedModel
    from onnxheadprune.runtime.progress import Progress
    from onnxheadprune.workflow.requests import Request
    from onnxheadprune.workflow.result import PruneResult


@dataclass(frozen=True)
class Showing:
    """Settings for the output of a run."""

    report: Path | None
    heatmap: Path | None
    as_json: bool


def carry_out(model: Path | LoadedModel, request: Request, showing: Showing, *, dry_run: bool) -> int:
    """Do what is asked for and report it."""
    if dry_run:
        return _ahead(model, request, showing)
    from onnxheadprune.workflow.pipeline import run_prune

    presentation = Presentation()

    def ready(result: PruneResult) -> None:
        from onnxheadprune.reporting.plan import prune_report

        rows = list(prune_report(result, this_call(), showing.report))
        _prepare(presentation, model, rows, result.to_dict, showing, result)

    with _progress_on(showing) as progress:
        result = run_prune(model, request, progress, ready)
    return presentation.deliver(result.output)


@contextlib.contextmanager
def _progress_on(showing: Showing) -> Iterator[Progress]:
    """Show the progress of a cut; its pictures can be drawn."""
    from onnxheadprune.reporting.console import err
    from onnxheadprune.reporting.progress import progress_on

    if showing.heatmap is not None:
        from onnxheadprune.reporting.pictures import check_picture

        check_picture(showing.heatmap)
    with progress_on(err()) as progress:
        progress("reading the model", 0, 0)
        yield progress


def _ahead(model: Path | LoadedModel, request: Request, showing: Showing) -> int:
    from onnxheadprune.cli.ahead import plan_ahead
    from onnxheadprune.model.load import open_structure
    from onnxheadprune.reporting.plan import answer_report
    from onnxheadprune.runtime.providers import AUTO, resolve_provider
    from onnxheadprune.validation.headline import headline_of
    from onnxheadprune.validation.summary import result_of
    from onnxheadprune.workflow.details import plan_details
    from onnxheadprune.workflow.pipeline import claimed, run_prune
    from onnxheadprune.workflow.requests import Proving, Writing

    claimed(open_structure(model), request)
    if request.run.provider.lower() != AUTO:
        resolve_provider(request.run.provider)
    told = request.writing.output
    would: dict[str, object] = {} if told is None else {"would_write": str(told)}
    presentation, result = Presentation(), None
    choice = request.choice
    if choice.target is None and not choice.refit and choice.tokens is None:
        planned = plan_ahead(model, request)
        details = tuple(plan_details(planned.plan, planned.sizes, fusion=planned.fusion))
        summary = planned.to_dict() | would
    else:
        request = replace(request, writing=Writing(), proving=Proving(validate=False))
        with _progress_on(showing) as progress:
            result = run_prune(model, request, progress)
        details = result.facts().details
        summary = result.to_dict() | would
    facts = replace(result_of(summary, headline_of([None])).facts(), details=details)
    rows = list(answer_report(facts, command_line(leaving="--dry-run"), showing.report))

    def document() -> dict[str, object]:
        return summary if result is None else _with_edits(result) | would

    _prepare(presentation, model, rows, document, showing, result)
    return presentation.deliver()


def _prepare(
    presentation: Presentation,
    model: Path | LoadedModel,
    rows: list[RenderableType],
    document: Callable[[], dict[str, object]],
    showing: Showing,
    result: PruneResult | None,
) -> None:
    told = {**document(), "run": run_record()} if showing.as_json or showing.report is not None else {}
    with presentation.prepared():
        if showing.heatmap is not None and result is not None:
            from onnxheadprune.reporting.pictures import save_figure
            from onnxheadprune.reporting.pictures.heads import plot_heads

            save_figure(plot_heads(result), showing.heatmap)
        if showing.report is not None:
            from onnxheadprune.reporting.page import save_page

            save_page(showing.report, told if result is None else told | _with_edits(result))
    if showing.as_json:
        presentation.json(told)
    else:
        presentation.rows(*rows)


def _with_edits(result: PruneResult) -> dict[str, object]:
    return {**result.to_dict(), "plan": result.plan.to_dict()}
