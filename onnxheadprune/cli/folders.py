"""`prune` of a folder of models that belong together: loaded where MODEL is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxheadprune.cli.cutting import Showing
from onnxheadprune.cli.inputs import read_data
from onnxheadprune.cli.presenting import Presentation, command_line, run_record, this_call
from onnxheadprune.deploying.clients.all import client_named
from onnxheadprune.deploying.folders.prune import prune_folder
from onnxheadprune.deploying.folders.result import FolderResult
from onnxheadprune.deploying.folders.types import Data, FolderRequest, Reader
from onnxheadprune.settings.calls import FolderCall
from onnxheadprune.settings.inputs import Running

if TYPE_CHECKING:
    from onnxheadprune.model.load import LoadedModel
    from onnxheadprune.workflow.requests import Request


def prune_export(
    folder: Path,
    request: Request,
    given: FolderCall,
    showing: Showing,
    dry_run: bool,
) -> int:
    """Prune a folder and report it."""
    from onnxheadprune.reporting.console import err
    from onnxheadprune.reporting.page import save_page
    from onnxheadprune.reporting.plan import folder_report
    from onnxheadprune.reporting.progress import progress_on

    told = None if request.writing.output is None else Path(request.writing.output)
    ahead = told if dry_run else None
    if dry_run:
        request = replace(request, writing=replace(request.writing, output=None))
    asked = FolderRequest(
        request,
        None if given.runtime is None else client_named(given.runtime),
        given.data_name,
        given.follow_links,
        given.per_layer_config,
        _reader_of(folder, given),
        command_line(),
        exclude=given.exclude,
    )
    would = {} if ahead is None else {"would_write": str(ahead)}
    presentation = Presentation()

    def ready(result: FolderResult) -> None:
        document = {**result.to_dict(), **would, "run": run_record()}
        with presentation.prepared():
            if showing.report is not None:
                save_page(showing.report, document)
        if showing.as_json:
            presentation.json(document)
        else:
            presentation.rows(
                *folder_report(result, this_call(), command_line(leaving="--dry-run"), showing.report)
            )

    with progress_on(err()) as progress:
        result = prune_folder(folder, asked, progress, ready)
    return presentation.deliver(result.output)


def _reader_of(folder: Path, running: Running) -> Reader | None:
    """Read the data that the options name for one model of a folder, whose own tokenizer is taken for text."""
    if running.data is None:
        return None
    from onnxheadprune.data.sources import with_own_tokenizer

    running = with_own_tokenizer(folder, running)

    def read(model: LoadedModel) -> Data:
        return read_data(model, running, in_folder=True)

    return read
