"""A cut from end to end, of a model or a folder, or its dry run, and the report of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxheadprune.cli.presenting import Presentation, command_line, document_of, run_record, this_call
from onnxheadprune.reporting.console import err
from onnxheadprune.reporting.progress import progress_on

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxheadprune.deploying.folders.result import FolderResult
    from onnxheadprune.display.facts import Facts
    from onnxheadprune.model.storage.claims import Making
    from onnxheadprune.settings.calls import PruneCall
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

    @property
    def files(self) -> list[Making]:
        """The reports, which can be made."""
        return reports(report=self.report, heatmap=self.heatmap)


def reports(**paths: Path | None) -> list[Making]:
    """The files that options name beside the output of a command, by the names of the options; plots can be drawn."""
    from onnxheadprune.model.storage.claims import Making
    from onnxheadprune.reporting.pictures import FORMATS, check_picture

    named = {name: path for name, path in paths.items() if path is not None}
    for path in named.values():
        if Path(path).suffix.lower() in FORMATS:
            check_picture(path)
    flags = {name: f"--{name.replace('_', '-')}" for name in named}
    return [Making(flags[name], Path(path), os.fspath(path)) for name, path in named.items()]


def carry_out(
    run: Callable[..., PruneResult],
    showing: Showing,
) -> int:
    """Do what is asked for and report it.

    Args:
        run: the cut, which takes the progress, what is called with the result, and the reports.
    """
    presentation = Presentation()

    def ready(result: PruneResult) -> None:
        from onnxheadprune.reporting.plan import prune_report

        rows = list(prune_report(result, this_call(), showing.report))
        document = document_of(result) if showing.is_recorded else {}
        _prepare(presentation, rows, result.facts(), document, showing, result)

    with progress_on(err()) as progress:
        result = run(progress, ready, beside=showing.files)
    return presentation.deliver(result.output)


def look_ahead(model: Path, call: PruneCall, showing: Showing) -> int:
    """Report what a cut would change; nothing is written, proven or timed."""
    from onnxheadprune.reporting.plan import answer_report
    from onnxheadprune.validation.headline import headline_of
    from onnxheadprune.validation.summary import result_of
    from onnxheadprune.workflow.pipeline import run_prune

    would, presentation = _ahead(model, call), Presentation()
    with progress_on(err()) as progress:
        result = run_prune(model, call, progress, beside=showing.files, dry_run=True)
    summary, plan = result.to_dict() | would, result.plan.to_dict()
    facts = replace(result_of(summary, headline_of([None])).facts(), details=result.facts().details)
    rows = list(answer_report(facts, command_line(leaving="--dry-run"), showing.report))
    # It is read back as a plan, which has no facts.
    document = {**summary, "plan": plan}
    if result.chosen is None and result.plan.vocabulary is None:
        known = ("fusion", "before", "after", "warnings")
        document = {**plan, **{name: summary[name] for name in known if summary[name] is not None}, **would}
    document |= {"run": run_record()} if showing.is_recorded else {}
    _prepare(presentation, rows, facts, document, showing, result)
    return presentation.deliver()


def _ahead(model: Path, call: PruneCall) -> dict[str, object]:
    """The place where a dry run would write, for its document."""
    output = model if call.in_place else call.output
    return {} if output is None else {"would_write": str(output)}


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


def prune_export(folder: Path, call: PruneCall, showing: Showing, *, dry_run: bool) -> int:
    """Prune a folder and report it."""
    from onnxheadprune.deploying.folders.prune import prune_folder
    from onnxheadprune.reporting.page import Result, save_page
    from onnxheadprune.reporting.plan import folder_report

    would, presentation = _ahead(folder, call) if dry_run else {}, Presentation()

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
        result = prune_folder(
            folder,
            call,
            progress,
            ready,
            beside=showing.files,
            dry_run=dry_run,
            command=command_line(),
        )
    return presentation.deliver(result.output)
