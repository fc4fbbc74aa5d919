"""A cut from end to end, of a model or a folder, or its dry run, and the report of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxheadprune.cli.presenting import Presentation, document_of, next_command
from onnxheadprune.reporting.console import err, provider_rows
from onnxheadprune.reporting.plan import answer_report
from onnxheadprune.reporting.progress import progress_on

if TYPE_CHECKING:
    from onnxheadprune.deploying.folders.result import FolderResult
    from onnxheadprune.model.storage.claims import Making
    from onnxheadprune.workflow.result import PruneResult


def reports(**paths: Path | None) -> list[Making]:
    """The files that options name beside the output of a command, by the names of the options; plots can be drawn."""
    from onnxheadprune.model.storage.claims import Making
    from onnxheadprune.reporting.pictures import FORMATS, check_picture

    named = {name: path for name, path in paths.items() if path is not None}
    for path in named.values():
        if Path(path).suffix.lower() in FORMATS:
            check_picture(Path(path))
    flags = {name: f"--{name.replace('_', '-')}" for name in named}
    return [Making(flags[name], Path(path), os.fspath(path)) for name, path in named.items()]


def carry_out(
    run: Callable[..., PruneResult | FolderResult],
    *,
    report: Path | None = None,
    heatmap: Path | None = None,
    as_json: bool = False,
) -> int:
    """Make a cut, or look ahead at one, and report it.

    Args:
        run: the cut, which takes the progress, what is called with the result, and the reports.
    """
    presentation = Presentation()

    def ready(result: Any) -> None:
        # Nobody who reads the rows alone waits for how to repeat the run.
        document: dict[str, Any] = document_of(result) if as_json or report is not None else {}
        with presentation.prepared():
            if heatmap is not None:
                from onnxheadprune.reporting.pictures import save_figure
                from onnxheadprune.reporting.pictures.draw import plot_heads

                save_figure(plot_heads(result), heatmap)
            if report is not None:
                from onnxheadprune.reporting.page import Result, save_page

                save_page(report, [Result(result.facts(), document["run"])])
        if as_json:
            presentation.json(document)
        else:
            proof = next((item.validation for item in result.results if item.validation is not None), None)
            warning = () if proof is None else provider_rows(proof.provider)
            presentation.rows(*warning, *answer_report(result.facts(), next_command(result), report))

    with progress_on(err()) as progress:
        result = run(progress, ready, beside=reports(report=report, heatmap=heatmap))
    return presentation.deliver(result.output)
