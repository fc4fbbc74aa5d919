"""A cut from end to end, of a model or a folder, or its dry run, and the report of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxheadprune.cli.presenting import Presentation, command_line, document_of, run_record, this_call

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxheadprune.deploying.folders.result import FolderResult
    from onnxheadprune.display.facts import Facts
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

    @property
    def is_recorded(self) -> bool:
        """True if it is shown how to repeat the run: nobody who reads the rows alone waits for that."""
        return self.as_json or self.report is not None


def carry_out(
    model: Path | LoadedModel,
    request: Request,
    showing: Showing,
    like: Path | None = None,
) -> int:
    """Do what is asked for and report it.

    Args:
        like: a pruned model, whose cut is made again and trained.
    """
    from onnxheadprune.workflow.pipeline import run_prune

    presentation = Presentation()

    def ready(result: PruneResult) -> None:
        from onnxheadprune.reporting.plan import prune_report

        rows = list(prune_report(result, this_call(), showing.report))
        document = document_of(result) if showing.is_recorded else {}
        _prepare(presentation, rows, result.facts(), document, showing, result)

    with _progress_on(showing) as progress:
        if like is None:
            result = run_prune(model, request, progress, ready)
        else:
            from onnxheadprune.workflow.recover import run_recovery

            result = run_recovery(model, like, request, progress, ready)
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


def look_ahead(model: Path | LoadedModel, request: Request, showing: Showing) -> int:
    """Report what a cut would change; nothing is written, proven or timed."""
    from onnxheadprune.model.load import open_structure
    from onnxheadprune.reporting.plan import answer_report
    from onnxheadprune.validation.headline import headline_of
    from onnxheadprune.validation.summary import result_of
    from onnxheadprune.workflow.pipeline import claimed, run_prune

    claimed(open_structure(model), request)
    output = request.call.output
    would: dict[str, object] = {} if output is None else {"would_write": str(output)}
    request = request.into(None)
    fuse = "contrib" if request.call.fuse == "auto" else request.call.fuse
    request = replace(request, call=replace(request.call, validate=False, fuse=fuse))
    presentation = Presentation()
    with _progress_on(showing) as progress:
        result = run_prune(model, request, progress)
    summary, plan = result.to_dict() | would, result.plan.to_dict()
    facts = replace(result_of(summary, headline_of([None])).facts(), details=result.facts().details)
    rows = list(answer_report(facts, command_line(leaving="--dry-run"), showing.report))
    # It is read back as a plan, which has no facts.
    document = {**summary, "plan": plan}
    if not request.chooses and request.tokens is None:
        known = ("fusion", "before", "after", "warnings")
        document = {**plan, **{name: summary[name] for name in known if summary[name] is not None}, **would}
    document |= {"run": run_record()} if showing.is_recorded else {}
    _prepare(presentation, rows, facts, document, showing, result)
    return presentation.deliver()


def _prepare(
    presentation: Presentation,
    rows: list[RenderableType],
    facts: Facts,
    document: dict[str, Any],
    showing: Showing,
    result: PruneResult,
) -> None:
    with presentation.prepared():
        if showing.heatmap is not None:
            from onnxheadprune.reporting.pictures import save_figure
            from onnxheadprune.reporting.pictures.draw import plot_heads

            save_figure(plot_heads(result), showing.heatmap)
        if showing.report is not None:
            from onnxheadprune.reporting.page import Result, save_page

            save_page(showing.report, [Result(facts, document["run"])])
    if showing.as_json:
        presentation.json(document)
    else:
        presentation.rows(*rows)


def prune_export(folder: Path, request: Request, showing: Showing, *, dry_run: bool) -> int:
    """Prune a folder and report it."""
    from onnxheadprune.deploying.folders.prune import prune_folder
    from onnxheadprune.reporting.console import err
    from onnxheadprune.reporting.page import Result, save_page
    from onnxheadprune.reporting.plan import folder_report
    from onnxheadprune.reporting.progress import progress_on

    ahead = request.call.output if dry_run else None
    request = request.into(None) if dry_run else request
    would: dict[str, object] = {} if ahead is None else {"would_write": str(ahead)}
    presentation = Presentation()

    def ready(result: FolderResult) -> None:
        document = document_of(result, **would)
        with presentation.prepared():
            if showing.report is not None:
                save_page(showing.report, [Result(result.facts(), run_record())])
        if showing.as_json:
            presentation.json(document)
        else:
            presentation.rows(
                *folder_report(result, this_call(), command_line(leaving="--dry-run"), showing.report)
            )

    with progress_on(err()) as progress:
        result = prune_folder(folder, request, progress, ready, command=command_line())
    return presentation.deliver(result.output)
